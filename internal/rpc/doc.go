// Package rpc is how the processes of Lockstep connect to each other by gRPC:
// over mutual TLS, with pings by which either end notices within seconds that
// the other's machine is gone, and with reconnects that follow soon. What is
// called is not its business: package replication adds the sizes of its
// messages, and whoever dials the certificates.
package rpc
