package journal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

const rigVolumeBytes = 256 << 10

// thinRig is a store that takes a checkpoint a second and thins after four.
type thinRig struct {
	t      *testing.T
	mem    *vfs.Mem
	fault  *vfs.Fault
	clock  *clock.Manual
	cfg    Config
	rng    *rand.Rand
	s      *Store
	images map[Position][]byte // at checkpoints
	points []Checkpoint
}

func newThinRig(t *testing.T, now *clock.Manual, change func(*Config)) *thinRig {
	t.Helper()
	r := &thinRig{t: t, mem: vfs.NewMem(), clock: now, rng: rand.New(rand.NewPCG(3, 4)), images: map[Position][]byte{}}
	makeParent(t, r.mem)
	r.fault = vfs.NewFault(r.mem)
	r.cfg = Config{
		FS: r.fault, Dir: worldDir, Clock: now, SegmentBytes: MinSegmentBytes, Random: randomReader{rand.New(rand.NewPCG(5, 6))},
		History: History{{time.Second, 4 * time.Second}, {4 * time.Second, time.Hour}}, minThinSegments: 2,
	}
	if change != nil {
		change(&r.cfg)
	}
	if err := Create(r.cfg, Spec{testVolume, rigVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	r.s = mustOpen(t, r.cfg)
	t.Cleanup(func() { mustClose(t, r.s) })
	return r
}

// second writes a few times at random places and takes a checkpoint.
func (r *thinRig) second(writes int) Checkpoint {
	r.t.Helper()
	for range writes {
		p := bytes.Repeat([]byte{byte(r.rng.Uint32())}, 32<<10)
		if _, err := r.s.Write(p, r.rng.Int64N(8)*(32<<10)); err != nil {
			r.t.Fatal(err)
		}
	}
	c := Checkpoint{
		Number: CheckpointNumber(len(r.points) + 1), Time: r.clock.Now(),
		CheckpointInfo: CheckpointInfo{Group: "shop", Members: []VolumeID{testVolume}},
	}
	var err error
	if c.Position, err = r.s.Checkpoint(c); err != nil {
		r.t.Fatal(err)
	}
	if err := r.s.Flush(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.images[c.Position] = readAll(r.t, r.s, rigVolumeBytes)
	r.points = append(r.points, c)
	return c
}

// seconds lets time pass, writing and taking checkpoints.
func (r *thinRig) seconds(n int) {
	r.t.Helper()
	for range n {
		r.second(4)
		r.clock.Advance(time.Second)
	}
}

func (r *thinRig) maintain() ThinningStats {
	r.t.Helper()
	if err := r.s.Maintain(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	return r.s.Stats().Thinning
}

// dropped is a checkpoint in the middle of the past that was thinned away.
func (r *thinRig) dropped() Checkpoint {
	r.t.Helper()
	r.s.mu.RLock()
	defer r.s.mu.RUnlock()
	for _, c := range r.points[5:] {
		if r.s.isThinnedLocked(c.Position) {
			return c
		}
	}
	r.t.Fatal("nothing was thinned")
	return Checkpoint{}
}

// checkListed: what is listed is the first of each four seconds and what is
// young, and each reads as it did.
func (r *thinRig) checkListed() {
	r.t.Helper()
	want := map[CheckpointNumber]bool{}
	for i, c := range r.points {
		first := i == 0 || r.points[i-1].Time.Before(c.Time.Truncate(4*time.Second))
		if r.clock.Now().Sub(c.Time) <= 4*time.Second || first {
			want[c.Number] = true
		}
	}
	listed := r.s.Checkpoints()
	if len(listed) != len(want) {
		r.t.Errorf("%d checkpoints are listed, want %d", len(listed), len(want))
	}
	for _, c := range listed {
		if !want[c.Number] {
			r.t.Errorf("checkpoint %d is listed", c.Number)
		}
		v, err := r.s.View(c.Position)
		if err != nil {
			r.t.Fatalf("open checkpoint %d: %v", c.Number, err)
		}
		if !bytes.Equal(readAll(r.t, v, rigVolumeBytes), r.images[c.Position]) {
			r.t.Errorf("checkpoint %d reads otherwise than it did", c.Number)
		}
		if err := v.Close(); err != nil {
			r.t.Fatal(err)
		}
	}
}

// foreignSecond is a second of which another site has made the records.
func (r *thinRig) foreignSecond() {
	r.t.Helper()
	add := func(record Record) Position {
		tip := r.s.Tip()
		record.Position = Position{tip.Timeline, tip.Seq + 1}
		record.PayloadCRC = PayloadChecksum(record.Payload)
		if err := r.s.AppendRecords([]Record{record}); err != nil {
			r.t.Fatal(err)
		}
		return record.Position
	}
	for range 4 {
		p := bytes.Repeat([]byte{byte(r.rng.Uint32())}, 32<<10)
		add(Record{Kind: KindWrite, Offset: r.rng.Int64N(8) * (32 << 10), Length: int64(len(p)), Payload: p})
	}
	c := Checkpoint{
		Number: CheckpointNumber(len(r.points) + 1), Time: r.clock.Now(),
		CheckpointInfo: CheckpointInfo{Group: "shop", Members: []VolumeID{testVolume}},
	}
	c.Position = add(Record{Kind: KindCheckpoint, Offset: int64(c.Number), Length: c.Time.UnixNano(), Payload: c.appendEncoded(nil)})
	if err := r.s.Flush(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.images[c.Position] = readAll(r.t, r.s, rigVolumeBytes)
	r.points = append(r.points, c)
	r.clock.Advance(time.Second)
}

// spend is a wasted operation, which takes a fault that was armed for the next
// one of its kind.
func (r *thinRig) spend(op vfs.Op) {
	r.t.Helper()
	if op == vfs.OpCommit {
		if err := r.s.Unpin("spent"); !errors.Is(err, ErrFull) {
			r.t.Fatalf("unpin: %v, want the fault", err)
		}
		return
	}
	f, err := r.fault.Create("spent")
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	var b [8]byte
	if op == vfs.OpWrite {
		_, err = f.WriteAt(b[:], 0)
	} else {
		err = f.Sync()
	}
	if !errors.Is(err, vfs.ErrNoSpace) {
		r.t.Fatalf("%s: %v, want the fault", op, err)
	}
}

// checkOpens: a checkpoint reads as it did.
func (r *thinRig) checkOpens(c Checkpoint) {
	r.t.Helper()
	v, err := r.s.View(c.Position)
	if err != nil {
		r.t.Errorf("open checkpoint %d: %v", c.Number, err)
		return
	}
	if !bytes.Equal(readAll(r.t, v, rigVolumeBytes), r.images[c.Position]) {
		r.t.Errorf("checkpoint %d reads otherwise than it did", c.Number)
	}
	if err := v.Close(); err != nil {
		r.t.Fatal(err)
	}
}
