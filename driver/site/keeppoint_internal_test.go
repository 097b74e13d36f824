package site

import (
	"context"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// A member whose store does not open may hold the newest point. The others do not take an
// older one, of before it has joined, for that.
func TestAMemberThatIsNotOpenCostsNoPoint(t *testing.T) {
	ctx := context.Background()
	fs := vfs.NewMem()
	open := func() *Site {
		s, err := Open(ctx, Config{Name: "a", Root: "/root", FS: fs, SegmentBytes: journal.MinSegmentBytes})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	shut := func(s *Site) {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := open()
	const bytes = 1 << 20
	a := replication.Announcement{Group: "shop", Term: 2, Settings: group.Settings{CheckpointInterval: time.Hour}.WithDefaults()}
	var newest group.Point
	for n := byte(1); n <= 2; n++ {
		id := journal.VolumeID{n}
		err := s.CreateVolume(ctx, NewVolume{ID: id, Name: id.String(), SizeBytes: bytes, Group: "shop", Settings: a.Settings})
		if err == nil {
			newest, _, err = s.Groups().TakePoint(ctx, "shop", "")
		}
		if err != nil {
			t.Fatal(err)
		}
		a.Members = append(a.Members, replication.Member{Volume: id, Name: id.String(), SizeBytes: bytes})
	}
	if err := s.Groups().Standings().Follow(ctx, "b", a); err != nil {
		t.Fatal(err)
	}
	shut(s)
	base := "/root/volumes/" + journal.VolumeID{2}.String() + "/store-1/base.img"
	if err := fs.Rename(base, base+".away"); err != nil {
		t.Fatal(err)
	}
	s = open()
	keep := func() journal.Position {
		t.Helper()
		st, err := s.groups.State("shop")
		if err == nil {
			err = s.keepPoint(ctx, st)
		}
		if err != nil {
			t.Fatal(err)
		}
		eng, err := s.engineOf(journal.VolumeID{1})
		if err != nil {
			t.Fatal(err)
		}
		return eng.Store().KeptPoint()
	}
	eng, err := s.engineOf(journal.VolumeID{1})
	if err != nil {
		t.Fatal(err)
	}
	if got := keep(); got != eng.Store().Horizon() {
		t.Errorf("the other member keeps %s, want all since %s", got, eng.Store().Horizon())
	}
	if err := fs.Rename(base+".away", base); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReopenVolume(ctx, journal.VolumeID{2}); err != nil {
		t.Fatal(err)
	}
	if got, want := keep(), newest.Members[journal.VolumeID{1}]; got != want {
		t.Errorf("with all members the first keeps %s, want %s of the newest point", got, want)
	}
	shut(s)
}
