// Package loopback gives test programs addresses that their servers can count on.
//
// A server that is another process, or that comes back, needs its address before
// it listens. A port of 127.0.0.1 that was free a moment ago need not be free
// then: every connection that any program of the machine makes there takes one
// of the same ports, and so does every other program that looks for a free one.
// But all of 127.0.0.0/8 is this machine, and connections to any of it come from
// 127.0.0.1 (Linux's local routing table says so). So each process listens at an
// address of its own there, where no port is taken but by itself.
//
// The package has no state but the ports it gave out, and starts no goroutine.
package loopback
