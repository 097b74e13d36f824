package controller_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/lockstep-csi/lockstep/controller"
)

// shop makes a group of two volumes with content.
func shop(s *site) (data, wal string) {
	parameters := map[string]string{"group": "shop"}
	data = s.createVolume("data", parameters).GetVolumeId()
	wal = s.createVolume("wal", parameters).GetVolumeId()
	s.write(data, "data 1")
	s.write(wal, "wal 1")
	return data, wal
}

func TestSnapshotPinsTheWholeGroup(t *testing.T) {
	s := newSite(t)
	data, wal := shop(s)
	snapshot := s.createSnapshot("monday", data, "")
	s.write(data, "data 2")
	s.write(wal, "wal 2")
	if !snapshot.GetReadyToUse() || snapshot.GetSizeBytes() != 64*mib || snapshot.GetSourceVolumeId() != data || snapshot.GetGroupSnapshotId() != "" {
		t.Errorf("snapshot is %v", snapshot)
	}
	if at := snapshot.GetCreationTime().AsTime(); !at.Equal(testStart.Add(time.Second)) {
		t.Errorf("creation time %s is not the checkpoint's", at)
	}
	for name, test := range map[string]struct{ member, want string }{
		"default": {"", "data 1"},
		"by name": {"wal", "wal 1"},
		"by id":   {wal, "wal 1"},
		"itself":  {"data", "data 1"},
	} {
		req := volumeRequest("restored "+name, nil)
		if test.member != "" {
			req.Parameters = map[string]string{controller.ParameterMember: test.member}
		}
		restored := s.createFrom(fromSnapshot(req, snapshot.GetSnapshotId()))
		if got := s.content(restored.GetVolumeId()); got != test.want {
			t.Errorf("%s: restored %q, want %q", name, got, test.want)
		}
	}
	req := volumeRequest("restored", map[string]string{controller.ParameterMember: "alien"})
	_, err := s.CreateVolume(context.Background(), fromSnapshot(req, snapshot.GetSnapshotId()))
	wantCode(t, err, codes.InvalidArgument)
	checkAgreement(t, s)
}

func TestSnapshotIsIdempotent(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	data, wal := shop(s)
	first := s.createSnapshot("monday", data, "")
	again := s.createSnapshot("monday", data, "")
	if again.GetSnapshotId() != first.GetSnapshotId() || !again.GetCreationTime().AsTime().Equal(first.GetCreationTime().AsTime()) {
		t.Errorf("the same snapshot is %v and %v", first, again)
	}
	_, err := s.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "monday", SourceVolumeId: wal})
	wantCode(t, err, codes.AlreadyExists)
	_, err = s.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "monday", SourceVolumeId: data, Parameters: map[string]string{"asOf": "1"}})
	wantCode(t, err, codes.AlreadyExists)
	_, err = s.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "tuesday", SourceVolumeId: "none"})
	wantCode(t, err, codes.NotFound)
	for range 2 {
		s.deleteSnapshot(first.GetSnapshotId())
	}
	// The name is free again, also for another volume.
	if got := s.createSnapshot("monday", wal, ""); got.GetSourceVolumeId() != wal {
		t.Errorf("new snapshot is %v", got)
	}
}

func TestSnapshotOfThePast(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	data, _ := shop(s)
	first := s.backend.Checkpoint("shop")
	s.write(data, "data 2")
	second := s.backend.Checkpoint("shop")
	s.write(data, "data 3")
	for asOf, want := range map[string]struct {
		content string
		at      time.Time
	}{
		fmt.Sprint(first.Checkpoint):                                      {"data 1", first.Time},
		fmt.Sprint(second.Checkpoint):                                     {"data 2", second.Time},
		second.Time.Add(time.Hour).Format(time.RFC3339):                   {"data 2", second.Time},
		second.Time.Add(-time.Millisecond).Format(time.RFC3339Nano):       {"data 1", first.Time},
		second.Time.In(time.FixedZone("", 3600)).Format(time.RFC3339Nano): {"data 2", second.Time},
	} {
		snapshot := s.createSnapshot("as of "+asOf, data, asOf)
		if !snapshot.GetCreationTime().AsTime().Equal(want.at) {
			t.Errorf("asOf %s: creation time %s, want the checkpoint's %s", asOf, snapshot.GetCreationTime().AsTime(), want.at)
		}
		restored := s.createFrom(fromSnapshot(volumeRequest("from "+asOf, nil), snapshot.GetSnapshotId()))
		if got := s.content(restored.GetVolumeId()); got != want.content {
			t.Errorf("asOf %s: restored %q, want %q", asOf, got, want.content)
		}
	}
	pins := len(s.backend.Pins())
	late := s.createVolume("late", map[string]string{"group": "shop"}).GetVolumeId()
	for name, test := range map[string]struct {
		volume, asOf string
		code         codes.Code
	}{
		"no such checkpoint":   {data, "999", codes.NotFound},
		"before the history":   {data, testStart.Add(-time.Hour).Format(time.RFC3339), codes.OutOfRange},
		"not text of a moment": {data, "noon", codes.InvalidArgument},
		"before it was made":   {late, fmt.Sprint(first.Checkpoint), codes.NotFound},
	} {
		_, err := s.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{
			Name: name, SourceVolumeId: test.volume, Parameters: map[string]string{"asOf": test.asOf},
		})
		t.Log(err)
		wantCode(t, err, test.code)
	}
	if len(s.backend.Pins()) != pins {
		t.Errorf("failed snapshots left pins: %v", s.backend.Pins())
	}
	checkAgreement(t, s)
}

// TestSnapshotsAreIndependent pins one point for both members and drops one.
func TestSnapshotsAreIndependent(t *testing.T) {
	s := newSite(t)
	data, wal := shop(s)
	point := fmt.Sprint(s.backend.Checkpoint("shop").Checkpoint)
	ofData, ofWAL := s.createSnapshot("of data", data, point), s.createSnapshot("of wal", wal, point)
	s.write(wal, "wal 2")
	s.deleteSnapshot(ofData.GetSnapshotId())
	restored := s.createFrom(fromSnapshot(volumeRequest("restored", nil), ofWAL.GetSnapshotId()))
	if got := s.content(restored.GetVolumeId()); got != "wal 1" {
		t.Errorf("restored %q after the other member's snapshot was deleted", got)
	}
	checkAgreement(t, s)
}

// TestVolumesAreIndependentOfSnapshots deletes every member while snapshots
// exist, and restores all images afterwards.
func TestVolumesAreIndependentOfSnapshots(t *testing.T) {
	s := newSite(t)
	data, wal := shop(s)
	first, second := s.createSnapshot("first", data, ""), s.createSnapshot("second", wal, "")
	s.deleteVolume(data)
	s.deleteVolume(wal)
	s.deleteVolume(wal)
	list := must[*csi.ListVolumesResponse](t)(s.ListVolumes(context.Background(), &csi.ListVolumesRequest{}))
	if len(list.GetEntries()) != 0 {
		t.Errorf("deleted volumes are listed: %v", list)
	}
	// The names are free; the new volumes are others.
	if id := s.createVolume("data", nil).GetVolumeId(); id == data {
		t.Error("a new volume has the id of a deleted one whose image is kept")
	}
	s.deleteSnapshot(first.GetSnapshotId())
	for member, want := range map[string]string{data: "data 1", "wal": "wal 1"} {
		req := volumeRequest("restored "+member, map[string]string{controller.ParameterMember: member})
		restored := s.createFrom(fromSnapshot(req, second.GetSnapshotId()))
		if got := s.content(restored.GetVolumeId()); got != want {
			t.Errorf("restored %q, want %q", got, want)
		}
		s.deleteVolume(restored.GetVolumeId())
	}
	checkAgreement(t, s)
	s.deleteSnapshot(second.GetSnapshotId())
	checkAgreement(t, s)
	if n := len(s.backend.Stores()); n != 1 {
		t.Errorf("%d stores are left, want that of the new volume", n)
	}
}

func TestRestoreSizesAndBlocks(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	source := s.createVolume("data", map[string]string{"blockSize": "512"}).GetVolumeId()
	snapshot := s.createSnapshot("monday", source, "").GetSnapshotId()
	unsized := fromSnapshot(volumeRequest("unsized", nil), snapshot)
	unsized.CapacityRange = nil
	if got := s.createFrom(unsized).GetCapacityBytes(); got != 64*mib {
		t.Errorf("a restored volume has %d bytes, want its source's", got)
	}
	larger := fromSnapshot(volumeRequest("larger", nil), snapshot)
	larger.CapacityRange.RequiredBytes = 100 * mib
	if got := s.createFrom(larger).GetCapacityBytes(); got != 100*mib {
		t.Errorf("a larger restored volume has %d bytes", got)
	}
	smaller := fromSnapshot(volumeRequest("smaller", nil), snapshot)
	smaller.CapacityRange = &csi.CapacityRange{LimitBytes: 32 * mib}
	_, err := s.CreateVolume(ctx, smaller)
	wantCode(t, err, codes.OutOfRange)
	blocks := fromSnapshot(volumeRequest("blocks", map[string]string{"blockSize": "4096"}), snapshot)
	_, err = s.CreateVolume(ctx, blocks)
	wantCode(t, err, codes.InvalidArgument)
}

func TestCloneIsOfOneMoment(t *testing.T) {
	s := newSite(t)
	data, _ := shop(s)
	clone := s.createFrom(fromVolume(volumeRequest("clone", nil), data))
	s.write(data, "data 2")
	if got := s.content(clone.GetVolumeId()); got != "data 1" {
		t.Errorf("clone has %q", got)
	}
	if clone.GetContentSource().GetVolume().GetVolumeId() != data {
		t.Errorf("content source is %v", clone.GetContentSource())
	}
	if pins := s.backend.Pins(); len(pins) != 0 {
		t.Errorf("a complete clone keeps %v", pins)
	}
	s.deleteVolume(data) // does not need its clone
	checkAgreement(t, s)
}

func TestGroupSnapshot(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	data, wal := shop(s)
	create := func(name string, ids ...string) (*csi.VolumeGroupSnapshot, error) {
		got, err := s.CreateVolumeGroupSnapshot(ctx, &csi.CreateVolumeGroupSnapshotRequest{Name: name, SourceVolumeIds: ids})
		return got.GetGroupSnapshot(), err
	}
	first := must[*csi.VolumeGroupSnapshot](t)(create("both", wal, data))
	if len(first.GetSnapshots()) != 2 || !first.GetReadyToUse() {
		t.Fatalf("group snapshot is %v", first)
	}
	again := must[*csi.VolumeGroupSnapshot](t)(create("both", data, wal, data))
	if again.GetGroupSnapshotId() != first.GetGroupSnapshotId() {
		t.Errorf("the same group snapshot is %v and %v", first, again)
	}
	_, err := create("both", data)
	wantCode(t, err, codes.AlreadyExists)
	alone := s.createVolume("alone", nil).GetVolumeId()
	_, err = create("mixed", data, alone)
	wantCode(t, err, codes.FailedPrecondition)
	_, err = create("none")
	wantCode(t, err, codes.InvalidArgument)

	var ids []string
	for _, member := range first.GetSnapshots() {
		ids = append(ids, member.GetSnapshotId())
		if member.GetGroupSnapshotId() != first.GetGroupSnapshotId() || !member.GetCreationTime().AsTime().Equal(first.GetCreationTime().AsTime()) {
			t.Errorf("member is %v", member)
		}
		_, err := s.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: member.GetSnapshotId()})
		wantCode(t, err, codes.InvalidArgument)
		got := must[*csi.GetSnapshotResponse](t)(s.GetSnapshot(ctx, &csi.GetSnapshotRequest{SnapshotId: member.GetSnapshotId()}))
		if got.GetSnapshot().GetSourceVolumeId() != member.GetSourceVolumeId() {
			t.Errorf("GetSnapshot is %v, want %v", got, member)
		}
		source := member.GetSourceVolumeId()
		restored := s.createFrom(fromSnapshot(volumeRequest("restored "+source, nil), member.GetSnapshotId()))
		if got, want := s.content(restored.GetVolumeId()), s.content(source); got != want {
			t.Errorf("restored %q, want %q", got, want)
		}
	}
	_, err = s.DeleteVolumeGroupSnapshot(ctx, &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: first.GetGroupSnapshotId(), SnapshotIds: ids[:1]})
	wantCode(t, err, codes.InvalidArgument)
	_, err = s.GetVolumeGroupSnapshot(ctx, &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: first.GetGroupSnapshotId(), SnapshotIds: []string{"x"}})
	wantCode(t, err, codes.InvalidArgument)
	for range 2 {
		_, err = s.DeleteVolumeGroupSnapshot(ctx, &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: first.GetGroupSnapshotId(), SnapshotIds: ids})
		wantCode(t, err, codes.OK)
	}
	_, err = s.GetVolumeGroupSnapshot(ctx, &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: first.GetGroupSnapshotId()})
	wantCode(t, err, codes.NotFound)
	_, err = s.GetSnapshot(ctx, &csi.GetSnapshotRequest{SnapshotId: ids[0]})
	wantCode(t, err, codes.NotFound)
	checkAgreement(t, s)
}

// TestSnapshotInUse deletes a snapshot while a volume is being made from it.
func TestSnapshotInUse(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	data, _ := shop(s)
	snapshot := s.createSnapshot("monday", data, "").GetSnapshotId()
	s.backend.Copying = make(chan struct{})
	impatient, giveUp := context.WithCancel(ctx)
	result := make(chan error)
	go func() {
		_, err := s.CreateVolume(impatient, fromSnapshot(volumeRequest("restored", nil), snapshot))
		result <- err
	}()
	s.backend.Copying <- struct{}{} // the copy has begun
	_, err := s.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot})
	wantCode(t, err, codes.FailedPrecondition)
	giveUp()
	wantCode(t, <-result, codes.Aborted)
	// The copy goes on without its caller, and a repeated call finds it.
	s.backend.Copying <- struct{}{}
	restored := s.createFrom(fromSnapshot(volumeRequest("restored", nil), snapshot))
	if got := s.content(restored.GetVolumeId()); got != "data 1" {
		t.Errorf("restored %q", got)
	}
	s.deleteSnapshot(snapshot)
	checkAgreement(t, s)
}
