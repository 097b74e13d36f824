package controller_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/controller/catalog"
)

func cloneForClaim(name, source string) *csi.CreateVolumeRequest {
	return fromVolume(volumeRequest(name, map[string]string{"csi.storage.k8s.io/pvc/namespace": "prod", "csi.storage.k8s.io/pvc/name": name}), source)
}

// A claim that is deleted while its copy is being made, and its provisioner, which was
// told no end, asks on: it gets the copy, to delete it. An answer that is final would
// have it forget the copy, and nobody else deletes one.
func TestACopyWhoseClaimIsGoneIsHandedOver(t *testing.T) {
	known := claims{"prod/clone": {Group: "prod/clone"}}
	s := newSiteWith(t, known)
	source := s.createVolume("data", nil).GetVolumeId()
	s.backend.Copying = make(chan struct{})
	clone := cloneForClaim("clone", source)
	ctx, giveUp := context.WithCancel(t.Context())
	answered := make(chan error)
	go func() {
		_, err := s.CreateVolume(ctx, clone)
		answered <- err
	}()
	s.backend.Copying <- struct{}{} // it has begun
	giveUp()
	wantCode(t, <-answered, codes.Aborted)
	delete(known, "prod/clone")
	s.backend.Copying <- struct{}{} // it ends
	made, err := s.CreateVolume(t.Context(), clone)
	if err != nil {
		t.Fatalf("asked again: %v", err)
	}
	s.deleteVolume(made.GetVolume().GetVolumeId())
	s.deleteVolume(source)
	if left := s.backend.Stores(); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	_, err = s.CreateVolume(t.Context(), clone)
	wantCode(t, err, codes.NotFound) // nothing is left of it: that is final
}

// A claim whose annotations are changed to what nobody understands, while its copy is being
// made, has that copy all the same. Its provisioner would forget it else.
func TestACopyOfAClaimThatIsChangedMeanwhile(t *testing.T) {
	known := claims{"prod/clone": {Group: "prod/clone"}}
	s := newSiteWith(t, known)
	source := s.createVolume("data", nil).GetVolumeId()
	first, err := s.CreateVolume(t.Context(), cloneForClaim("clone", source)) // whose answer is lost
	if err != nil {
		t.Fatal(err)
	}
	known["prod/clone"] = controller.Claim{Group: "prod/clone", AsOf: "yesterday"}
	again, err := s.CreateVolume(t.Context(), cloneForClaim("clone", source))
	if err != nil || again.GetVolume().GetVolumeId() != first.GetVolume().GetVolumeId() {
		t.Errorf("asked again: %v, %v, want %v", again, err, first)
	}
	known["prod/other"] = known["prod/clone"]
	_, err = s.CreateVolume(t.Context(), cloneForClaim("other", source))
	wantCode(t, err, codes.InvalidArgument)
}

// A call that fails, and cannot be undone, is asked for again, whatever it failed with:
// a caller forgets what is final, and the start that would remove it may be weeks away.
func TestWhatIsNotUndoneIsNotFinal(t *testing.T) {
	known := claims{"prod/clone": {Group: "prod/clone"}}
	s := newSiteWith(t, known)
	source := s.createVolume("data", nil).GetVolumeId()
	failing := map[string]error{"CreateStore": controller.ErrInvalid, "RetireStore": controller.ErrDamaged, "TakePin": controller.ErrInvalid, "ReleasePin": controller.ErrDamaged}
	s.backend.After = func(call string) error { return failing[call] }
	snapshot := &csi.CreateSnapshotRequest{Name: "snap", SourceVolumeId: source}
	_, err := s.CreateSnapshot(t.Context(), snapshot)
	wantCode(t, err, codes.Aborted)
	groupSnapshot := &csi.CreateVolumeGroupSnapshotRequest{Name: "snaps", SourceVolumeIds: []string{source}}
	_, err = s.CreateVolumeGroupSnapshot(t.Context(), groupSnapshot)
	wantCode(t, err, codes.Aborted)
	delete(failing, "TakePin")
	_, err = s.CreateVolume(t.Context(), cloneForClaim("clone", source))
	wantCode(t, err, codes.Aborted)
	// Asked again, each is to begin anew, for which what is left has to go first.
	_, err = s.CreateSnapshot(t.Context(), snapshot)
	wantCode(t, err, codes.Aborted)
	_, err = s.CreateVolumeGroupSnapshot(t.Context(), groupSnapshot)
	wantCode(t, err, codes.Aborted)
	_, err = s.CreateVolume(t.Context(), cloneForClaim("clone", source))
	wantCode(t, err, codes.Aborted)
	known["prod/clone"] = controller.Claim{Group: "prod/clone", Member: "prod/other"} // which needs a snapshot
	_, err = s.CreateVolume(t.Context(), cloneForClaim("clone", source))
	wantCode(t, err, codes.Aborted)
	delete(known, "prod/clone")
	_, err = s.CreateVolume(t.Context(), cloneForClaim("clone", source))
	wantCode(t, err, codes.Aborted) // still not undone, though nobody wants it any more
	delete(failing, "RetireStore")
	delete(failing, "ReleasePin")
	_, err = s.CreateVolume(t.Context(), cloneForClaim("clone", source))
	wantCode(t, err, codes.NotFound)
	failing["TakePin"] = controller.ErrInvalid
	_, err = s.CreateSnapshot(t.Context(), snapshot)
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("the snapshot: %v", err)
	}
	_, err = s.CreateVolumeGroupSnapshot(t.Context(), groupSnapshot)
	wantCode(t, err, codes.InvalidArgument)
	if stores, pins := s.backend.Stores(), s.backend.Pins(); len(stores) != 1 || len(pins) != 0 {
		t.Errorf("left: stores %v, pins %v", stores, pins)
	}
}

// A volume whose node is lost is attached again at a start for as long as that may take.
// What an earlier process has left is removed all the same: nobody asks for it again.
func TestALostNodeKeepsNothingFromBeingRolledBack(t *testing.T) {
	known := claims{"prod/clone": {Group: "prod/clone"}}
	s := newSiteWith(t, known)
	source := s.createVolume("data", nil).GetVolumeId()
	must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(t.Context(), publishRequest(source, mountCapability(""))))
	failing := map[string]error{"CreateStore": controller.ErrInvalid, "RetireStore": controller.ErrDamaged, "TakePin": controller.ErrInvalid, "ReleasePin": controller.ErrDamaged}
	s.backend.After = func(call string) error { return failing[call] }
	_, err := s.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "snap", SourceVolumeId: source})
	wantCode(t, err, codes.Aborted)
	delete(failing, "TakePin")
	for _, name := range []string{"clone", "clone-2", "clone-3"} {
		known["prod/"+name] = controller.Claim{Group: "prod/" + name}
		_, err = s.CreateVolume(t.Context(), cloneForClaim(name, source))
		wantCode(t, err, codes.Aborted)
	}
	s.Close()
	s.backend.After = nil
	next := startSite(t, s.db, s.backend)
	next.backend.Attaching = make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := next.Reconcile(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("reconcile: %v, want DeadlineExceeded of what is attached", err)
	}
	var pins []catalog.Pin
	err = catalog.New(s.db).View(func(tx *catalog.Tx) (err error) {
		pins, err = tx.Pins()
		return err
	})
	if stores := next.backend.Stores(); err != nil || len(pins) != 0 || len(stores) != 1 {
		t.Errorf("left: pins %v, stores %v, %v", pins, stores, err)
	}
}
