// Package lease keeps two engines of one volume apart where nothing else does:
// on storage that several nodes can reach and that Kubernetes does not attach
// (docs/kubernetes.md, "The fence").
//
// The lease is one record that can be replaced only by who knows its version.
// Its holder renews it every RenewEvery, and considers itself valid for
// Validity from the *start* of the last renewal that succeeded. Another one
// takes it over when it is released, or when it has seen the same version for
// Takeover by a clock of its own, counted from when *it* first saw it.
//
// Why two are never valid at a time: a renewal that made a version began before
// anybody saw that version. Its holder is valid until Validity after the
// beginning, and nobody takes over before Takeover after the sight; Takeover is
// longer by 10 s, which is the room for clocks that run at different speeds and
// for an I/O that was admitted at the last moment. If the holder renews in
// between, the version is another one, and the takeover fails. The times of
// two machines are never compared.
//
// Clocks count the time in which a machine is suspended (Boot). A machine that
// is suspended within an I/O, longer than the lease, and goes on is beyond what
// a lease can do.
//
// machine is the protocol without time or network, which is what the simulation
// runs; Keeper drives it, in one goroutine of its owner. Package leaseapi is the
// record as a Lease object of Kubernetes, over plain HTTP.
package lease
