package journal

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// leapRig is a thinned store and a replica of it.
type leapRig struct {
	*thinRig
	replica *Store
	disk    *vfs.Mem
	faults  *vfs.Fault
	there   Config
	bytes   int64 // of records that the replica was given
}

func newLeapRig(t *testing.T, now *clock.Manual, change func(*Config)) *leapRig {
	t.Helper()
	r := &leapRig{thinRig: newThinRig(t, now, change), disk: vfs.NewMem()}
	makeParent(t, r.disk)
	r.faults = vfs.NewFault(r.disk)
	r.there = r.cfg
	r.there.FS, r.there.Random = r.faults, randomReader{rand.New(rand.NewPCG(7, 8))}
	at := r.s.Tip()
	im, err := NewImport(r.there, Spec{testVolume, r.s.SizeBytes()}, at, r.s.Timelines())
	if err == nil {
		err = im.Commit()
	}
	if err != nil {
		t.Fatal(err)
	}
	r.replica = mustOpen(t, r.there)
	t.Cleanup(func() { _ = r.replica.Close() })
	return r
}

// follow gives the replica the records that follow its tip, without gaps, as far
// as they are all there.
func (r *leapRig) follow() error {
	reader, err := r.s.Records(r.replica.Tip())
	if err != nil {
		return err
	}
	defer reader.Close()
	for reader.Ready() {
		record, err := reader.Next(r.t.Context())
		if err != nil {
			return err
		}
		if tip := r.replica.Tip(); record.Position.Timeline != tip.Timeline {
			if err := r.adopt(record.Position.Timeline); err != nil {
				return err
			}
		}
		r.bytes += int64(record.EncodedBytes())
		if err := r.replica.AppendRecords([]Record{record}); err != nil {
			return err
		}
	}
	return r.replica.Flush(r.t.Context())
}

// adopt takes the replica along the source's path to a timeline.
func (r *leapRig) adopt(to TimelineID) error {
	for _, line := range r.s.Timelines() {
		if line.Parent == r.replica.Tip() && line.ID != r.replica.Tip().Timeline {
			if _, err := r.s.tree.path(r.s.Horizon(), r.s.Tip()); err != nil {
				return err
			}
			if err := r.replica.Adopt(line); err != nil || line.ID == to {
				return err
			}
		}
	}
	return nil
}

// leap takes the replica over one leap, to a checkpoint at least so many records on.
func (r *leapRig) leap(records int) error {
	from, through, ok := r.replica.Leap()
	if !ok {
		through = 0
	}
	reader, err := r.s.Survivors(r.replica.Tip(), through)
	if err != nil {
		return err
	}
	defer reader.Close()
	if line := reader.Timeline(); line != r.replica.Tip().Timeline {
		if err := r.adopt(line); err != nil {
			return err
		}
	}
	if !ok || from != r.replica.Tip() {
		if err := r.replica.BeginLeap(reader.Interval()); err != nil {
			return err
		}
	}
	var last Record
	for n := 1; ; n++ {
		record, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		last = record
		r.bytes += int64(record.EncodedBytes())
		if err := r.replica.AppendLeap([]Record{record}); err != nil {
			return err
		}
		if n >= records && record.Kind == KindCheckpoint {
			break
		}
	}
	if last.Kind == KindCheckpoint {
		return r.replica.EndLeap(last.Position, nil)
	}
	for _, line := range r.s.Timelines() {
		if line.Parent == last.Position {
			return r.replica.EndLeap(last.Position, &line)
		}
	}
	return ErrGap
}

// catchUp takes the replica to the source's tip and counts leaps.
func (r *leapRig) catchUp(records int) (leaps int, err error) {
	for {
		err := r.follow()
		if !errors.Is(err, ErrThinned) {
			return leaps, err
		}
		if err := r.leap(records); err != nil {
			return leaps, err
		}
		leaps++
	}
}

// checkReplica: the replica reads at its tip, and at every checkpoint that it
// lists, what the source did, and refuses those that it lost.
func (r *leapRig) checkReplica() {
	r.t.Helper()
	s := r.replica
	listed := s.Checkpoints()
	for _, c := range listed {
		v, err := s.View(c.Position)
		if err != nil {
			r.t.Fatalf("open checkpoint %d at the replica: %v", c.Number, err)
		}
		if !bytes.Equal(readAll(r.t, v, rigVolumeBytes), r.images[c.Position]) {
			r.t.Errorf("checkpoint %d reads otherwise at the replica", c.Number)
		}
		if err := v.Close(); err != nil {
			r.t.Fatal(err)
		}
	}
	if image, ok := r.images[s.Tip()]; ok && !bytes.Equal(readAll(r.t, s, rigVolumeBytes), image) {
		r.t.Errorf("the replica reads otherwise at its tip %s", s.Tip())
	}
	for _, c := range r.points {
		there := slices.ContainsFunc(listed, func(l Checkpoint) bool { return l.Number == c.Number })
		if there || !s.Path().Contains(c.Position) {
			continue
		}
		if v, err := s.View(c.Position); err == nil { // not listed, and not dropped yet
			if !bytes.Equal(readAll(r.t, v, rigVolumeBytes), r.images[c.Position]) {
				r.t.Errorf("checkpoint %d reads otherwise at the replica", c.Number)
			}
			_ = v.Close()
		} else if !errors.Is(err, ErrThinned) {
			r.t.Errorf("checkpoint %d is refused with %v, want ErrThinned", c.Number, err)
		}
	}
}

// away lets time pass without the replica, and thins.
func (r *leapRig) away(seconds int) {
	r.t.Helper()
	before := r.s.Stats().Thinning.Rewrites
	for range seconds / 20 {
		r.seconds(20)
		r.maintain()
	}
	if r.s.Stats().Thinning.Rewrites == before {
		r.t.Fatal("nothing was thinned")
	}
}

// reopen loses the replica's process, and what was not synced.
func (r *leapRig) reopen(chance *rand.Rand) {
	r.t.Helper()
	disk := r.disk.Crash(chance)
	_ = r.replica.Close() // its disk is gone
	r.disk, r.faults = disk, vfs.NewFault(disk)
	r.there.FS = r.faults
	r.replica = mustOpen(r.t, r.there)
}
