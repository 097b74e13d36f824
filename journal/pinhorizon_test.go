package journal

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// TestAPinnedCheckpointStaysAPoint: one that a destage under way takes the record of, because
// the horizon has moved on to it, is in no list, and not to be pinned any more, nor held, by
// whoever has read the list before: the pin would keep what no point leads to. An operation that was
// begun needs its position alone, and can pin it, hold it and return there all the same.
func TestAPinnedCheckpointStaysAPoint(t *testing.T) {
	ctx, refused, pinned := context.Background(), 0, 0
	for k := int64(1); ; k++ {
		mem := vfs.NewMem()
		makeParent(t, mem)
		fault := vfs.NewFault(mem)
		cfg := Config{FS: fault, Dir: worldDir, SegmentBytes: MinSegmentBytes, JournalBytes: 1}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(Create(cfg, Spec{testVolume, worldVolumeBytes}))
		s, err := Open(cfg)
		must(err)
		_, err = s.Write(make([]byte, SectorBytes), 0)
		must(err)
		at, err := s.Checkpoint(Checkpoint{Number: 1, Time: time.Unix(1, 0), CheckpointInfo: CheckpointInfo{Group: "g", Members: []VolumeID{testVolume}}})
		must(err)
		must(s.Flush(ctx))
		_, err = s.Fork(at, "failover")
		must(err)
		_, err = s.Write(make([]byte, SectorBytes), 0)
		must(err)
		must(s.Flush(ctx))
		fault.CrashAt(fault.Count() + k)
		destaged := destageUnheld(s)
		_ = s.Close() // of no use without its disk
		if destaged == nil {
			break
		}
		cfg.FS = mem.KillClone()
		s, err = Open(cfg)
		must(err)
		listed := len(s.Checkpoints()) > 0
		holding, pinning := s.HoldCheckpoint("somebody", 1, at, time.Hour), s.PinCheckpoint("kept", 1, at)
		s.Release("somebody")
		for _, err := range []error{holding, pinning} {
			if err != nil && !errors.Is(err, ErrHorizon) {
				t.Fatalf("operation %d: %v", k, err)
			}
			if (err == nil) != listed {
				t.Errorf("operation %d: listed %t, and it is pinned or held with %v", k, listed, err)
			}
		}
		must(s.Hold("operation", at, time.Hour))
		must(s.Pin("rewind:operation", at))
		must(destageUnheld(s))
		if all := s.Checkpoints(); pinning == nil && (len(all) != 1 || all[0].Position != at) {
			t.Errorf("operation %d: pinned at %s, and the checkpoints are %+v", k, at, all)
		}
		_, err = s.Fork(at, "undo")
		must(err)
		if pinning == nil {
			pinned++
		} else {
			refused++
		}
		mustClose(t, s)
	}
	if pinned == 0 || refused == 0 {
		t.Errorf("%d pins were made and %d refused, want some of each", pinned, refused)
	}
}

// A checkpoint that a whole batch of destage has taken since it was chosen is where the horizon and
// the base are, and can be opened; but no list has it, and who holds it as that checkpoint is told so.
func TestACheckpointThatDestageTookIsNotHeld(t *testing.T) {
	cfg := Config{FS: vfs.NewMem(), Dir: worldDir, SegmentBytes: MinSegmentBytes, JournalBytes: 1}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(Create(cfg, Spec{testVolume, worldVolumeBytes}))
	s, err := Open(cfg)
	must(err)
	defer mustClose(t, s)
	_, err = s.Write(make([]byte, SectorBytes), 0)
	must(err)
	_, err = s.Checkpoint(Checkpoint{Number: 7, Time: time.Unix(1, 0), CheckpointInfo: CheckpointInfo{Group: "g", Members: []VolumeID{testVolume}}})
	must(err)
	must(s.Flush(t.Context()))
	chosen := s.OpenableIn("g", 7, 7)[0]
	must(s.HoldCheckpoint("somebody", 7, chosen.Position, time.Hour))
	if err := s.HoldCheckpoint("somebody", 6, chosen.Position, time.Hour); !errors.Is(err, ErrHorizon) {
		t.Errorf("another checkpoint there is held with %v, want ErrHorizon", err)
	}
	s.Release("somebody")
	_, err = s.Fork(chosen.Position, "failover") // its segment ends with it
	must(err)
	_, err = s.Write(make([]byte, SectorBytes), 0)
	must(err)
	must(s.Flush(t.Context()))
	must(destageUnheld(s))
	if all := s.OpenableIn("g", 0, 0); len(all) != 0 {
		t.Fatalf("destage took nothing: %+v", all)
	}
	must(s.Hold("somebody", chosen.Position, time.Hour)) // who began an operation there can go on
	s.Release("somebody")
	if err := s.HoldCheckpoint("somebody", 7, chosen.Position, time.Hour); !errors.Is(err, ErrHorizon) {
		t.Errorf("a checkpoint that no list has is held with %v, want ErrHorizon", err)
	}
}
