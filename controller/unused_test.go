package controller_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/controller"
)

// known are claims of which nothing is known but that they are there.
type known struct{}

func (known) Claim(context.Context, string, string) (controller.Claim, error) {
	return controller.Claim{}, nil
}

// TestUnused checks which volumes count as unused, and that of these only a blank
// one is deleted.
func TestUnused(t *testing.T) {
	s := newSiteWith(t, known{})
	forClaim := func(name string) *csi.CreateVolumeRequest {
		return volumeRequest(name, map[string]string{"csi.storage.k8s.io/pvc/namespace": "app", "csi.storage.k8s.io/pvc/name": name})
	}
	blank, used := s.createFrom(forClaim("blank")), s.createFrom(forClaim("used"))
	s.createVolume("of nobody", nil)
	clone := s.createFrom(fromVolume(forClaim("clone"), blank.GetVolumeId()))
	must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(t.Context(), publishRequest(used.GetVolumeId(), mountCapability(""))))
	must[*csi.ControllerUnpublishVolumeResponse](t)(s.ControllerUnpublishVolume(t.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: used.GetVolumeId()}))
	got, err := s.Unused()
	if err != nil {
		t.Fatal(err)
	}
	want := []controller.Unused{{ID: blank.GetVolumeId(), Name: "blank", Claim: "app/blank"}, {ID: clone.GetVolumeId(), Name: "clone", Claim: "app/clone", Copy: true}}
	slices.SortFunc(got, func(a, b controller.Unused) int { return strings.Compare(a.Name, b.Name) })
	if !slices.Equal(got, want) {
		t.Fatalf("unused are %v, want %v", got, want)
	}
	before := len(s.backend.Stores())
	for _, id := range []string{blank.GetVolumeId(), used.GetVolumeId(), clone.GetVolumeId(), blank.GetVolumeId()} {
		if err := s.DeleteUnused(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if left := len(s.backend.Stores()); left != before-1 {
		t.Errorf("of %d stores %d are left, want one less", before, left)
	}
	if _, err := s.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
		VolumeId: used.GetVolumeId(), VolumeCapabilities: []*csi.VolumeCapability{mountCapability("")}}); err != nil {
		t.Errorf("the volume that was in use: %v", err)
	}
}
