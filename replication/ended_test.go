package replication

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// TestAnnouncementsTellHowItStands: progress, rest and end arrive as they were
// sent; an end with members is none.
func TestAnnouncementsTellHowItStands(t *testing.T) {
	for _, a := range []Announcement{
		{Group: "shop", Term: 2, Resting: true, Members: []Member{
			{Volume: volumeOne, Name: "one", SizeBytes: modelBytes, Progress: &Progress{Connected: true, LagRecords: 3, LagBytes: 4096, ImageBytes: 5, ImageSizeBytes: 9}},
			{Volume: volumeTwo, Name: "two", SizeBytes: modelBytes}}},
		{Group: "shop", Term: 2, Ended: true},
	} {
		got, err := decodeAnnouncement(encodeAnnouncement(a))
		must(t, err)
		got.Settings = group.Settings{}
		if len(a.Members) == 0 {
			got.Members = nil
		}
		if !reflect.DeepEqual(got, a) {
			t.Errorf("sent %+v, got %+v", a, got)
		}
	}
	req := encodeAnnouncement(Announcement{Group: "shop", Term: 2, Ended: true, Members: []Member{{Volume: volumeOne, SizeBytes: modelBytes}}})
	if _, err := decodeAnnouncement(req); !errors.Is(err, ErrProtocol) {
		t.Errorf("an end with a member: %v, want ErrProtocol", err)
	}
}

// TestEndAndOtherGroupOverTheWire: the peer learns of an end, and refuses another
// group of that name without demoting anybody, whatever the terms are.
func TestEndAndOtherGroupOverTheWire(t *testing.T) {
	r := newRig(t, volumeOne)
	gw := r.serve("b", "")
	conn := r.dial("a", "b", gw.address)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	old := Announcement{Group: modelGroup, Term: 3, Members: []Member{{Volume: volumeOne, Name: "old", SizeBytes: modelBytes}}}
	must(t, AnnounceOnce(ctx, conn, "b", old))
	for _, end := range []group.Term{2, 3} {
		must(t, AnnounceOnce(ctx, conn, "b", Announcement{Group: modelGroup, Term: end, Ended: true}))
		if got := r.sites["b"].endedAt(); (got == 3) != (end == 3) {
			t.Errorf("after an end at term %d it has ended at %d", end, got)
		}
	}
	for _, term := range []group.Term{1, 3, 9} {
		other := Announcement{Group: modelGroup, Term: term, Members: []Member{{Volume: journal.VolumeID{0xee}, Name: "new", SizeBytes: modelBytes}}}
		err := AnnounceOnce(ctx, conn, "b", other)
		if !errors.Is(err, ErrOtherGroup) || errors.Is(err, ErrStaleTerm) {
			t.Errorf("another group at term %d: %v", term, err)
		}
		if demoted, err := demoteIfStale(ctx, r.sites["a"], modelGroup, err); demoted || err != nil {
			t.Errorf("a refusal of another group demotes: %t, %v", demoted, err)
		}
	}
	if held := r.sites["b"].standing(); held != (Standing{Role: group.RoleReplica, Term: 3, Source: "a"}) {
		t.Errorf("the replica holds %+v", held)
	}
}

// TestIdentify: a site tells its version, cut to what may be shown.
func TestIdentify(t *testing.T) {
	r := newRig(t, volumeOne)
	gw := r.serve("b", "")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got, err := Identify(ctx, r.dial("a", "b", gw.address))
	if err != nil || got != rigSoftware {
		t.Errorf("version %q, %v", got, err)
	}
	long := Identity(string(make([]byte, 2*MaxSoftwareBytes)))
	if len(long.GetSoftware()) != MaxSoftwareBytes {
		t.Errorf("%d bytes of version", len(long.GetSoftware()))
	}
}
