package site_test

import (
	"context"
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// TestAnOperationThatIsOverIsDone, also where what it kept could not be let go of: the
// group's start does that.
func TestAnOperationThatIsOverIsDone(t *testing.T) {
	ctx := context.Background()
	for k := int64(1); ; k++ {
		mem := vfs.NewMem()
		fault := vfs.NewFault(mem)
		s := prepared(t, fault)
		if _, err := s.Groups().StartRewind(ctx, "shop", "pin:before", false); err != nil {
			t.Fatal(err)
		}
		fault.FailAfter(k, vfs.ErrNoSpace, vfs.OpCommit)
		_, err := s.Groups().UndoRewind(ctx, "shop", false)
		fault.Mend()
		st, failed := s.Groups().State("shop")
		if failed != nil {
			t.Fatal(failed)
		}
		if over := st.Pending == nil && st.Rewind == nil; over && err != nil {
			t.Errorf("k=%d: an undo that is over has failed: %v", k, err)
		} else if over {
			s.expect(t, 2)
		}
		mustClose(t, s)
		if st.Rewind == nil {
			for _, id := range members {
				if pins := rewindPins(t, mem, id); len(pins) > 0 {
					t.Errorf("k=%d: volume %s keeps %v", k, id, pins)
				}
			}
		}
		if errors.Is(err, vfs.ErrNoSpace) {
			continue
		}
		if k > 6 {
			break
		}
	}
}
