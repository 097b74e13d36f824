package controller_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

// TestListIsStableUnderChange pages through volumes while others come and go:
// each that exists all the while is listed exactly once.
func TestListIsStableUnderChange(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	var permanent, doomed []string
	for i := range 20 {
		id := s.createVolume(fmt.Sprintf("volume %d", i), nil).GetVolumeId()
		if i%2 == 0 {
			permanent = append(permanent, id)
		} else {
			doomed = append(doomed, id)
		}
	}
	seen := make(map[string]int)
	token := ""
	for page := 0; ; page++ {
		got := must[*csi.ListVolumesResponse](t)(s.ListVolumes(ctx, &csi.ListVolumesRequest{MaxEntries: 3, StartingToken: token}))
		if len(got.GetEntries()) > 3 {
			t.Fatalf("a page of 3 has %d entries", len(got.GetEntries()))
		}
		for _, entry := range got.GetEntries() {
			seen[entry.GetVolume().GetVolumeId()]++
		}
		if token = got.GetNextToken(); token == "" {
			break
		}
		if page < len(doomed) {
			// The last one listed may be among them: its token stays valid.
			last := got.GetEntries()[2].GetVolume().GetVolumeId()
			if i := slices.Index(doomed, last); i >= 0 {
				s.deleteVolume(last)
			} else {
				s.deleteVolume(doomed[page])
			}
			s.createVolume(fmt.Sprintf("new %d", page), nil)
		}
	}
	for _, id := range permanent {
		if seen[id] != 1 {
			t.Errorf("volume %s was listed %d times", id, seen[id])
		}
	}
	for id, times := range seen {
		if times > 1 {
			t.Errorf("volume %s was listed %d times", id, times)
		}
	}
}

func TestListRefuses(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	for _, token := range []string{"invalid-token", "after-", "after-zz", "1"} {
		_, err := s.ListVolumes(ctx, &csi.ListVolumesRequest{StartingToken: token})
		wantCode(t, err, codes.Aborted)
		_, err = s.ListSnapshots(ctx, &csi.ListSnapshotsRequest{StartingToken: token})
		wantCode(t, err, codes.Aborted)
		_, err = s.ControllerListVolumeHealth(ctx, &csi.ControllerListVolumeHealthRequest{StartingToken: token})
		wantCode(t, err, codes.Aborted)
	}
	_, err := s.ListVolumes(ctx, &csi.ListVolumesRequest{MaxEntries: -1})
	wantCode(t, err, codes.InvalidArgument)
}

func TestListSnapshots(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	data, wal := shop(s)
	var all []string
	for i := range 5 {
		all = append(all, s.createSnapshot(fmt.Sprintf("of data %d", i), data, "").GetSnapshotId())
	}
	ofWAL := s.createSnapshot("of wal", wal, "").GetSnapshotId()
	all = append(all, ofWAL)
	slices.Sort(all)
	list := func(req *csi.ListSnapshotsRequest) (ids []string, next string) {
		got := must[*csi.ListSnapshotsResponse](t)(s.ListSnapshots(ctx, req))
		for _, entry := range got.GetEntries() {
			ids = append(ids, entry.GetSnapshot().GetSnapshotId())
		}
		return ids, got.GetNextToken()
	}
	if got, _ := list(&csi.ListSnapshotsRequest{}); !slices.Equal(got, all) {
		t.Errorf("all are %v, want %v", got, all)
	}
	if got, _ := list(&csi.ListSnapshotsRequest{SourceVolumeId: wal}); !slices.Equal(got, []string{ofWAL}) {
		t.Errorf("those of wal are %v", got)
	}
	if got, _ := list(&csi.ListSnapshotsRequest{SnapshotId: ofWAL, SourceVolumeId: data}); len(got) != 0 {
		t.Errorf("what matches nothing is %v", got)
	}
	first, next := list(&csi.ListSnapshotsRequest{MaxEntries: 4})
	rest, end := list(&csi.ListSnapshotsRequest{StartingToken: next})
	if got := append(first, rest...); len(first) != 4 || end != "" || !slices.Equal(got, all) {
		t.Errorf("pages are %v and %v", first, rest)
	}
	if _, end := list(&csi.ListSnapshotsRequest{MaxEntries: int32(len(all))}); end != "" {
		t.Errorf("a full list has the token %q", end)
	}
}
