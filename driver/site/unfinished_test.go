package site_test

import (
	"context"
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// TestAnUnfinishedOperationIsTriedAgain: where a member, or the site's database, had no
// room for a moment, nobody has to start the site again once there is some.
func TestAnUnfinishedOperationIsTriedAgain(t *testing.T) {
	ctx := context.Background()
	for name, begin := range map[string]func(*opened) error{
		"rewind": func(s *opened) error {
			_, err := s.Groups().StartRewind(ctx, "shop", "pin:before", false)
			return err
		},
		"failover": func(s *opened) error {
			_, err := s.Groups().Failover(ctx, "shop", "pin:before", false)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			unfinished := 0
			for k := int64(1); ; k++ {
				fault := vfs.NewFault(vfs.NewMem())
				s := prepared(t, fault)
				if name == "failover" {
					demoted(t, s)
				}
				fault.FailFrom(fault.Count(vfs.OpCommit)+k, vfs.ErrNoSpace, vfs.OpCommit)
				err := begin(s)
				fault.Mend()
				st, failed := s.Groups().State("shop")
				if failed != nil {
					t.Fatal(failed)
				}
				if err != nil && st.Pending != nil {
					unfinished++
					s.TendGroups(ctx)
					if st, err := s.Groups().State("shop"); err != nil || st.Pending != nil || st.Role != group.RolePrimary {
						t.Fatalf("k=%d: %+v, %v: want an operation that is finished: %s", k, st, err, log.String())
					}
					s.expect(t, 1)
					if err := s.fill(3); err != nil {
						t.Errorf("k=%d: the group does not go on: %v", k, err)
					}
				}
				mustClose(t, s)
				if err == nil {
					break
				}
			}
			if unfinished < 2 {
				t.Errorf("%d operations were not finished at once", unfinished)
			}
		})
	}
}

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
