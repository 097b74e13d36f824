// Package csiserver serves CSI on a Unix socket: the identity service, which
// is its own, and the controller, group controller and node services that it
// is given.
//
// Every call is logged with its method, duration, result and volume, and with
// nothing else of the request: secrets, mount flags and contexts never reach
// the log. A panic in a call ends that call with Internal, not the process.
//
// Run owns the listener and the goroutines of the gRPC server, and joins them
// before it returns.
package csiserver
