package conformance

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/engine"
)

// deviceBytes is the size of the device in most cases.
const deviceBytes = 16 << 20

// patience is how long one client call may take before the suite calls it
// hung. It bounds failures only: no case waits for it when it passes.
const patience = 30 * time.Second

// OpenFunc serves dev through the frontend under test and connects a client.
// It fails the test itself when it cannot. What outlives Target.Close, it
// releases in t.Cleanup.
type OpenFunc func(t *testing.T, dev engine.Device) Target

// Run tests a frontend. Each case is a subtest with a device and a Target of
// its own; cases run one after another.
func Run(t *testing.T, open OpenFunc) {
	cases := []struct {
		name string
		run  func(*testing.T, OpenFunc)
	}{
		{"RoundTrip", testRoundTrip},
		{"Edges", testEdges},
		{"OddSize", testOddSize},
		{"BeyondEnd", testBeyondEnd},
		{"NeverWrittenReadsZero", testNeverWritten},
		{"Discard", testDiscard},
		{"WriteZeroes", testWriteZeroes},
		{"WholeDevice", testWholeDevice},
		{"OverlappingWrites", testOverlappingWrites},
		{"FlushMakesDurable", testFlushMakesDurable},
		{"FlushWaitsForDevice", testFlushWaitsForDevice},
		{"FUA", testFUA},
		{"FlushDelaysNoRead", testFlushDelaysNoRead},
		{"FlushDelaysNoWrite", testFlushDelaysNoWrite},
		{"ReadDelaysNobody", testReadDelaysNobody},
		{"WriteDelaysNobody", testWriteDelaysNobody},
		{"ManyInFlight", testManyInFlight},
		{"NoSpace", testNoSpace},
		{"ReadOnly", testReadOnly},
		{"Poisoned", testPoisoned},
		{"FailedRequestsLeaveOthersAlone", testFailedRequests},
		{"Random", testRandom},
		{"ConcurrentRegions", testConcurrentRegions},
		{"Growth", testGrowth},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, open) })
	}
}

// bench is one case's device and client.
type bench struct {
	*testing.T
	dev    *Memory
	target Target
	caps   Capabilities
}

// openBench serves a fresh device of sizeBytes; prepare, which may be nil,
// sees it before the frontend does.
func openBench(t *testing.T, open OpenFunc, sizeBytes int64, prepare func(*Memory)) *bench {
	t.Helper()
	dev := NewMemory(sizeBytes)
	if prepare != nil {
		prepare(dev)
	}
	b := &bench{T: t, dev: dev, target: open(t, dev)}
	b.caps = b.target.Capabilities()
	t.Cleanup(func() {
		if err := b.within("close", b.target.Close); err != nil {
			t.Errorf("close target: %v", err)
		}
	})
	return b
}

// call is a client call under way in its own goroutine.
type call struct {
	what string
	done chan error // buffered: a call that outlives its case still ends
}

// start runs fn without waiting for it.
func (b *bench) start(what string, fn func() error) *call {
	c := &call{what: what, done: make(chan error, 1)}
	go func() { c.done <- fn() }()
	return c
}

// wait returns the call's result, and fails the case when there is none in time.
func (b *bench) wait(c *call) error {
	b.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-c.done:
		return err
	case <-timer.C:
		b.Fatalf("%s: no answer within %v", c.what, patience)
		return nil
	}
}

// within runs fn and waits for it.
func (b *bench) within(what string, fn func() error) error {
	b.Helper()
	return b.wait(b.start(what, fn))
}

// must runs fn, waits for it and fails the case when it fails.
func (b *bench) must(what string, fn func() error) {
	b.Helper()
	if err := b.within(what, fn); err != nil {
		b.Fatalf("%s: %v", what, err)
	}
}

// pending fails the case when the call has ended already.
func (b *bench) pending(c *call) {
	b.Helper()
	select {
	case err := <-c.done:
		b.Fatalf("%s returned (error %v) while the device still held it up", c.what, err)
	default:
	}
}

// arrived waits until the gate holds up one more call.
func (b *bench) arrived(gate *Gate) {
	b.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-gate.Entered():
	case <-timer.C:
		b.Fatalf("the request did not reach the device within %v", patience)
	}
}

// block is Memory.Block, released at the latest when the case ends, so that a
// failing case cannot hang the frontend's tear-down.
func (b *bench) block(match Match, calls int) *Gate {
	gate := b.dev.Block(match, calls)
	b.Cleanup(gate.Release)
	return gate
}

// wantErrno fails the case unless err is one of the wanted errors; where the
// frontend does not claim exact errors, any error will do.
func (b *bench) wantErrno(what string, err error, wanted ...syscall.Errno) {
	b.Helper()
	if err == nil {
		b.Fatalf("%s: succeeded, want one of %v", what, wanted)
	}
	if !b.caps.ExactErrors {
		return
	}
	for _, errno := range wanted {
		if errors.Is(err, errno) {
			return
		}
	}
	b.Fatalf("%s: error %v, want one of %v", what, err, wanted)
}
