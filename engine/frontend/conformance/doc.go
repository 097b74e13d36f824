// Package conformance is the one test suite that every frontend must pass.
//
// Run serves a Memory, a reference engine.Device that can be watched and made
// to misbehave, through the frontend under test, and drives it from the
// client's side through a Target. A frontend's tests supply a function that
// opens a Target over a device; the suite supplies the cases.
//
// Invariants that the suite holds frontends to: what a client reads is what
// the device holds; a flush or a FUA write is acknowledged only after the
// device said so; a call that the device holds up delays nobody else; a
// failing call reports its cause and changes nothing; the number of requests
// in flight is not one.
//
// The package starts goroutines only inside test cases, and joins them there.
// It does not test a frontend's own protocol, its tear-down or its resource
// bounds: those cases are beside the frontend.
package conformance
