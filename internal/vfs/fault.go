package vfs

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
)

// Op is a kind of operation that changes a file system.
type Op uint8

// The operations that Fault counts. A RemoveAll counts as one OpRemove; Lock,
// which may make a file, and reads are not counted.
const (
	OpWrite Op = iota
	OpWriteVec
	OpSync
	OpTruncate
	OpAllocate
	OpPunchHole
	OpCreate
	OpRemove
	OpRename
	OpLink
	OpMkdir
	OpSyncDir
	// OpCommit is the commit of an Update whose function returned nil.
	OpCommit
	opKinds // how many there are
)

var opNames = [opKinds]string{
	"write", "write-vec", "sync", "truncate", "allocate", "punch-hole",
	"create", "remove", "rename", "link", "mkdir", "sync-dir", "commit",
}

func (o Op) String() string { return opNames[o] }

// traceLength is how many operations Trace remembers.
const traceLength = 64

// Fault wraps a file system and makes operations fail that a test has chosen
// by number. It counts every operation that changes something in one sequence
// that starts at 1 when the Fault is made; a test first runs the code without
// a failure to learn Count, and then once for every number up to it.
//
// The numbers are those of the order in which the operations begin; with
// several goroutines they differ from run to run.
type Fault struct {
	inner FS

	mu      sync.Mutex // guards the fields below
	counts  [opKinds]int64
	rules   []rule
	crashed bool
	torn    *rand.Rand // how much of the crashing operation is done; nil: nothing
	trace   []string
}

// rule is one armed failure.
type rule struct {
	at     int64 // counted over kinds
	onward bool  // also every operation of kinds after it
	kinds  []Op  // none: all
	err    error // ErrCrashed: a crash
}

// NewFault wraps inner, with nothing failing.
func NewFault(inner FS) *Fault { return &Fault{inner: inner} }

// Count returns how many operations of the given kinds, or of all if none is
// given, have begun. An operation that was made to fail counts; those after a
// crash do not.
func (f *Fault) Count(kinds ...Op) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count(kinds)
}

func (f *Fault) count(kinds []Op) int64 {
	var n int64
	for kind, c := range f.counts {
		if len(kinds) == 0 || slices.Contains(kinds, Op(kind)) {
			n += c
		}
	}
	return n
}

// FailAt makes the k-th operation of the given kinds, or of all if none is
// given, fail once with err. Nothing of it is done; but a Sync that fails on
// Mem loses what it should have made durable as Linux does, so that a Sync
// after it succeeds and helps nothing. Several may be armed.
//
// One that has begun already does not fail: where others may be at work, see
// FailAfter.
func (f *Fault) FailAt(k int64, err error, kinds ...Op) {
	f.arm(rule{at: k, kinds: kinds, err: err})
}

// FailFrom is FailAt for the k-th operation and all of its kinds after it.
func (f *Fault) FailFrom(k int64, err error, kinds ...Op) {
	f.arm(rule{at: k, onward: true, kinds: kinds, err: err})
}

// FailAfter is FailAt for the k-th operation from now on.
//
// FailAfter(1, err, OpSync) fails the next Sync.
func (f *Fault) FailAfter(k int64, err error, kinds ...Op) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, rule{at: f.count(kinds) + k, kinds: kinds, err: err})
}

// Mend takes back every failure that is armed, so that operations succeed again, as
// those of a disk that was mended. What has crashed stays so.
func (f *Fault) Mend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
}

// CrashAt makes the k-th operation of the given kinds, or of all if none is
// given, and after it every call of whatever kind fail with ErrCrashed. If the
// k-th has begun already it is the next one.
// Nothing of the operation is done. The file system below is not touched: the
// test goes on with Mem.Crash or Mem.KillClone.
func (f *Fault) CrashAt(k int64, kinds ...Op) {
	f.arm(rule{at: k, onward: true, kinds: kinds, err: ErrCrashed})
}

// CrashTornAt is CrashAt, but of the operation a part may be done before the
// crash, as rng decides: of a write any number of its first bytes, of anything
// else all or nothing. Only one crash may be armed.
func (f *Fault) CrashTornAt(k int64, rng *rand.Rand, kinds ...Op) {
	f.arm(rule{at: k, onward: true, kinds: kinds, err: ErrCrashed})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.torn = rng
}

func (f *Fault) arm(r rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, r)
}

// Crashed reports whether the crash that was armed has happened.
func (f *Fault) Crashed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.crashed
}

// Trace returns the last operations with their numbers, one a line, for the
// message of a test that failed.
func (f *Fault) Trace() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.trace, "\n")
}

// verdict is what shall become of an operation.
type verdict struct {
	// err is nil for an operation that goes on undisturbed.
	err error
	// part is the share of a failing operation that is done all the same, 0
	// to 1.
	part float64
}

// begin counts an operation and decides about it.
func (f *Fault) begin(op Op, format string, args ...any) verdict {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed {
		return verdict{err: ErrCrashed}
	}
	f.counts[op]++
	var v verdict
	for _, r := range f.rules {
		if v.err == nil && r.hits(op, f.count(r.kinds)) {
			v.err = r.err
		}
	}
	line := fmt.Sprintf("#%d %s ", f.count(nil), op) + fmt.Sprintf(format, args...)
	if v.err == ErrCrashed {
		f.crashed = true
		if f.torn != nil {
			v.part = f.torn.Float64()
		}
	}
	if v.err != nil {
		line += fmt.Sprintf(": %v", v.err)
	}
	if len(f.trace) == traceLength {
		f.trace = slices.Delete(f.trace, 0, 1)
	}
	f.trace = append(f.trace, line)
	return v
}

func (r rule) hits(op Op, count int64) bool {
	if len(r.kinds) > 0 && !slices.Contains(r.kinds, op) {
		return false
	}
	return count == r.at || r.onward && count > r.at
}

// alive returns ErrCrashed after the crash, for calls that are not counted.
func (f *Fault) alive() error {
	if f.Crashed() {
		return ErrCrashed
	}
	return nil
}

// run carries an operation out that cannot be done in part.
func (v verdict) run(op Op, name string, do func() error) error {
	if v.err == nil {
		return do()
	}
	if v.part >= 0.5 {
		_ = do() // the crash keeps the result from the caller
	}
	return wrap(op.String(), name, v.err)
}
