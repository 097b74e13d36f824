package controller_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/group"
)

// pins are those that the catalog has, in any state.
func (s *site) pins() []catalog.Pin {
	s.t.Helper()
	var pins []catalog.Pin
	err := catalog.New(s.db).View(func(tx *catalog.Tx) (err error) {
		pins, err = tx.Pins()
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return pins
}

// TestAPinThatIsNotMadeKeepsNobodyFromMoving: an engine does not come, neither for a pin
// nor for the end of it. What was not begun is forgotten at once, and what was begun in
// part goes on being dropped; the volumes of the group move meanwhile.
func TestAPinThatIsNotMadeKeepsNobodyFromMoving(t *testing.T) {
	away := fmt.Errorf("engine: %w", controller.ErrUnavailable)
	for name, test := range map[string]struct {
		taken  error // the end of TakePin, of which ErrUntouched is before it
		code   codes.Code
		remain int
	}{
		"untouched": {fmt.Errorf("%w: %w", controller.ErrUntouched, away), codes.Unavailable, 0},
		"in part":   {away, codes.Aborted, 1},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			s := newSite(t)
			data, wal := shop(s)
			s.backend.Before = func(call string) error {
				switch {
				case call == "ReleasePin":
					return away
				case call == "TakePin" && errors.Is(test.taken, controller.ErrUntouched):
					return test.taken
				}
				return nil
			}
			s.backend.After = func(call string) error {
				if call == "TakePin" {
					return test.taken
				}
				return nil
			}
			_, err := s.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "monday", SourceVolumeId: data})
			wantCode(t, err, test.code)
			if left := s.pins(); len(left) != test.remain {
				t.Errorf("pins %+v are left", left)
			}
			err = s.Regroup(ctx, parseID(t, wal), "other", nil, func(context.Context, group.Settings) error { return nil })
			if err != nil {
				t.Errorf("a volume of the group moves: %v", err)
			}
			s.backend.Before, s.backend.After = nil, nil
			s.createSnapshot("monday", data, "")
		})
	}
}

// TestACloneWhosePinWasNotBegunIsUndone: nothing of it is left to be waited for.
func TestACloneWhosePinWasNotBegunIsUndone(t *testing.T) {
	s := newSite(t)
	data, _ := shop(s)
	away := fmt.Errorf("%w: %w", controller.ErrUntouched, controller.ErrUnavailable)
	s.backend.Before = func(call string) error {
		if call == "TakePin" || call == "ReleasePin" {
			return away
		}
		return nil
	}
	_, err := s.CreateVolume(context.Background(), fromVolume(volumeRequest("copy", nil), data))
	wantCode(t, err, codes.Unavailable)
	if left := s.pins(); len(left) != 0 {
		t.Errorf("pins %+v are left", left)
	}
	s.backend.Before = nil
	s.createFrom(fromVolume(volumeRequest("copy", nil), data))
}

// TestWhoAsksAgainIsToldWhatFailed: what takes long fails when its caller has gone, and
// the next one, who is told to ask again, hears of it.
func TestWhoAsksAgainIsToldWhatFailed(t *testing.T) {
	s := newSite(t)
	data, _ := shop(s)
	s.backend.Copying = make(chan struct{})
	s.backend.Before = func(call string) error {
		if call == "CreateStore" {
			return fmt.Errorf("no node has room for its engine: %w", controller.ErrUnavailable)
		}
		return nil
	}
	for attempt, wanted := range []bool{false, true} {
		ctx, leave := context.WithCancel(context.Background())
		answer := make(chan error, 1)
		go func() {
			_, err := s.CreateVolume(ctx, fromVolume(volumeRequest("copy", nil), data))
			answer <- err
		}()
		s.backend.Copying <- struct{}{} // it is under way
		leave()
		err := <-answer
		wantCode(t, err, codes.Aborted)
		if told := strings.Contains(err.Error(), "no node has room"); told != wanted {
			t.Errorf("attempt %d: %v", attempt, err)
		}
		s.backend.Copying <- struct{}{} // and fails
	}
}

// TestALostVolumeDoesNotKeepItsSnapshots: a volume whose store is lost for good drops no pin.
// It is deleted, and the snapshots that have it are.
func TestALostVolumeDoesNotKeepItsSnapshots(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	data, wal := shop(s)
	monday := s.createSnapshot("monday", data, "").GetSnapshotId()
	tuesday := s.createSnapshot("tuesday", data, "").GetSnapshotId()
	lost := parseID(t, wal)
	isThere := func() bool { _, there := s.backend.Stores()[lost]; return there }
	gone := false
	s.backend.Before = func(call string) error {
		if call == "ReleasePin" && !gone {
			return fmt.Errorf("engine of %s: %w", lost, controller.ErrUnavailable)
		}
		return nil
	}
	s.backend.After = func(call string) error {
		gone = gone || call == "DeleteStore"
		return nil
	}
	s.deleteVolume(wal)
	if !isThere() {
		t.Fatal("a volume that snapshots have is gone")
	}
	for _, snapshot := range []string{monday, tuesday} {
		_, err := s.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot})
		wantCode(t, err, codes.Unavailable)
	}
	if isThere() {
		t.Error("a lost volume stays that nobody wants any more")
	}
	for _, snapshot := range []string{monday, tuesday} {
		if _, err := s.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot}); err != nil {
			t.Errorf("the next attempt: %v", err)
		}
	}
	if left := s.pins(); len(left) > 0 {
		t.Errorf("pins %+v are left", left)
	}
}
