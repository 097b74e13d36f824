package controller_test

import (
	"context"
	"errors"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/group"
)

// TestAdopt fails a volume over: the second site has its store, and serves it
// under the same id.
func TestAdopt(t *testing.T) {
	ctx := context.Background()
	a, b := newSite(t), newSite(t)
	id := a.createVolume("data", map[string]string{"group": "shop"}).GetVolumeId()
	store := a.backend.Stores()[parseID(t, id)]
	if _, err := b.backend.CreateStore(ctx, store.Spec); err != nil {
		t.Fatal(err)
	}
	adoption := controller.Adoption{
		ID: parseID(t, id), Name: "data", SizeBytes: store.Spec.SizeBytes, Group: "shop",
		Settings: group.Settings{}.WithDefaults(), BlockBytes: 512,
	}
	for range 2 {
		if err := b.Adopt(ctx, adoption); err != nil {
			t.Fatal(err)
		}
	}
	must[*csi.ControllerPublishVolumeResponse](t)(b.ControllerPublishVolume(ctx, publishRequest(id, mountCapability(""))))
	b.createSnapshot("monday", id, "")
	checkAgreement(t, b)
	other := adoption
	other.ID[0]++
	if err := b.Adopt(ctx, other); !errors.Is(err, controller.ErrExists) {
		t.Errorf("another volume of the name: %v, want ErrExists", err)
	}
	other = adoption
	other.Name = "other"
	if err := b.Adopt(ctx, other); !errors.Is(err, controller.ErrExists) {
		t.Errorf("another name of the volume: %v, want ErrExists", err)
	}
}

// TestAdoptWhatWasRetired fails back: the claim of a volume was deleted here while the
// other site was the primary, and a snapshot that is here kept its record. The store was
// not retired then. It is used again, and goes on when the snapshot goes.
func TestAdoptWhatWasRetired(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	id := s.createVolume("data", map[string]string{"group": "shop"}).GetVolumeId()
	snapshot := s.createSnapshot("monday", id, "").GetSnapshotId()
	s.backend.SetReplica(parseID(t, id), true)
	must[*csi.DeleteVolumeResponse](t)(s.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))
	s.backend.SetReplica(parseID(t, id), false)
	adoption := controller.Adoption{ID: parseID(t, id), Name: "data", SizeBytes: s.backend.Stores()[parseID(t, id)].Spec.SizeBytes, Group: "shop", Settings: group.Settings{}.WithDefaults(), BlockBytes: 512}
	if err := errors.Join(s.MayAdopt(adoption), s.Adopt(ctx, adoption)); err != nil {
		t.Fatal(err)
	}
	must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(ctx, publishRequest(id, mountCapability(""))))
	s.deleteSnapshot(snapshot)
	if _, there := s.backend.Stores()[parseID(t, id)]; !there {
		t.Error("the store went with the snapshot")
	}
	must[*csi.ControllerUnpublishVolumeResponse](t)(s.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id}))
	s.createSnapshot("tuesday", id, "")
	checkAgreement(t, s)
}

// TestForget forgets a volume whose replica is to be removed, unless something
// here needs it, and leaves its store alone.
func TestForget(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	id := s.createVolume("data", map[string]string{"group": "shop"}).GetVolumeId()
	published := publishRequest(id, mountCapability(""))
	must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(ctx, published))
	if err := s.Forget(ctx, parseID(t, id)); !errors.Is(err, controller.ErrInUse) || !errors.Is(s.MayForget(parseID(t, id)), controller.ErrInUse) {
		t.Errorf("a published volume: %v, want ErrInUse", err)
	}
	must[*csi.ControllerUnpublishVolumeResponse](t)(s.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: published.GetNodeId()}))
	snapshot := s.createSnapshot("monday", id, "").GetSnapshotId()
	if err := s.Forget(ctx, parseID(t, id)); !errors.Is(err, controller.ErrInUse) {
		t.Errorf("a volume with a snapshot: %v, want ErrInUse", err)
	}
	s.deleteSnapshot(snapshot)
	for range 2 {
		if err := s.Forget(ctx, parseID(t, id)); err != nil {
			t.Fatal(err)
		}
	}
	if _, there := s.backend.Stores()[parseID(t, id)]; !there {
		t.Error("the store of a volume that was forgotten is gone")
	}
	list := must[*csi.ListVolumesResponse](t)(s.ListVolumes(ctx, &csi.ListVolumesRequest{}))
	if len(list.GetEntries()) != 0 {
		t.Errorf("known are %v", list.GetEntries())
	}
}
