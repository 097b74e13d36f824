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
