package site_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// interrupted is a file system that calls somebody when the directory of a volume is made.
type interrupted struct {
	vfs.FS
	dir  string
	then func()
}

func (i *interrupted) MkdirAll(dir string) error {
	if then := i.then; then != nil && strings.HasSuffix(dir, i.dir) {
		i.then = nil
		then()
	}
	return i.FS.MkdirAll(dir)
}

// TestAGroupGoesOnWhileACopyIsMade: a volume that is restored into a group takes as long as
// its copy. The group's other members do not wait for that: not when this site is
// demoted, whose writes come to nothing, and not when one of them is rewound.
func TestAGroupGoesOnWhileACopyIsMade(t *testing.T) {
	restored := journal.VolumeID{9}
	image := &site.Image{Member: volumeB, Pin: "before"}
	for _, during := range []string{"demoted", "refused", "rewound", "deleted"} {
		t.Run(during, func(t *testing.T) {
			fs := &interrupted{FS: vfs.NewMem(), dir: restored.String()}
			s := prepared(t, fs)
			var err error
			fs.then = func() {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				switch during {
				case "demoted":
					a := replication.Announcement{Group: "shop", Term: 2, Settings: quiet()}
					for _, id := range members {
						a.Members = append(a.Members, replication.Member{Volume: id, Name: id.String(), SizeBytes: volumeBytes})
					}
					err = s.Groups().Standings().Follow(ctx, "b", a)
				case "refused": // at its successor, which has yet to announce itself
					err = s.Groups().Standings().Demote(ctx, "shop", 2, "b")
				case "rewound":
					_, err = s.Groups().StartRewind(ctx, "shop", "pin:before", false)
				case "deleted": // which waits for the copy
					ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
					defer cancel()
					if failed := s.DeleteVolume(ctx, restored); !errors.Is(failed, context.DeadlineExceeded) {
						err = errors.Join(failed, errors.New("deleted in the middle of its copy"))
					}
				}
			}
			created := s.create(restored, image)
			if err != nil {
				t.Errorf("%s: %v", during, err)
			}
			if during == "demoted" || during == "refused" {
				if !errors.Is(created, group.ErrRole) {
					t.Errorf("created in a group that has another primary by now: %v, want ErrRole", created)
				}
				if err := errors.Join(s.RetireVolume(t.Context(), restored), s.DeleteVolume(t.Context(), restored)); err != nil { // as CSI does then
					t.Error(err)
				}
				if _, err := s.Volume(restored); !errors.Is(err, site.ErrNotFound) {
					t.Errorf("what was begun is still there: %v", err)
				}
			} else {
				if created != nil {
					t.Fatal(created)
				}
				if got := s.content(t, restored); got != 1 {
					t.Errorf("the copy holds %d, want 1", got)
				}
				if p, _, err := s.Groups().TakePoint(t.Context(), "shop", ""); err != nil || len(p.Members) != 3 {
					t.Errorf("point %+v, %v: want one of three members", p, err)
				}
			}
			mustClose(t, s)
		})
	}
}
