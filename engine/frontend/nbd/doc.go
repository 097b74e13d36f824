// Package nbd serves engine devices over the NBD protocol, usually on a Unix
// socket: a live volume read-write, any view read-only.
//
// It speaks the fixed newstyle handshake and the transmission phase of
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, with
// structured replies, block status (base:allocation), FUA, trim, write zeroes
// and several connections to one export. It speaks no TLS: who may open the
// socket may use the devices.
//
// Invariants: a flush is acknowledged only after Device.Flush returned, which
// covers the changes acknowledged on every connection of the device, hence
// CAN_MULTI_CONN. Replies of one connection never interleave. No length that a
// client sends is believed before it is checked; the memory that one
// connection holds is bounded by Config.Workers requests and connectionBytes
// of payload.
//
// Goroutines: Serve owns one per connection, and each connection owns at most
// Config.Workers + 1 more (the one over is finishing to send). All of them
// have ended when Serve returns.
//
// The package attaches nothing to the kernel and does not listen: the caller
// hands it a listener.
package nbd
