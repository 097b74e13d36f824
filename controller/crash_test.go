package controller_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/controller/controllertest"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

var errKilled = errors.New("killed")

// killer counts the moments at which a process can die around its effects,
// and lets nothing more happen from the k-th on.
type killer struct {
	moments atomic.Int64
	at      int64 // 0: never
}

func (k *killer) moment() error {
	if n := k.moments.Add(1); k.at > 0 && n >= k.at {
		return errKilled
	}
	return nil
}

func (k *killer) arm(db *kv.Memory, backend *controllertest.Backend) {
	db.SetHooks(kv.Hooks{BeforeCommit: k.moment, AfterCommit: k.moment})
	backend.Before = func(string) error { return k.moment() }
	backend.After = backend.Before
}

func disarm(db *kv.Memory, backend *controllertest.Backend) {
	db.SetHooks(kv.Hooks{})
	backend.Before, backend.After = nil, nil
}

// lifecycle uses every call that changes something. Each step is idempotent,
// so the whole can be repeated after it was cut short. It stops at the first
// error.
func lifecycle(ctx context.Context, s *site) error {
	shop := map[string]string{"group": "shop"}
	data, err := s.CreateVolume(ctx, volumeRequest("data", shop))
	if err != nil {
		return err
	}
	wal := volumeRequest("wal", shop)
	wal.MutableParameters = map[string]string{"window": "2h"}
	if _, err := s.CreateVolume(ctx, wal); err != nil {
		return err
	}
	dataID := data.GetVolume().GetVolumeId()
	snapshot, err := s.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "monday", SourceVolumeId: dataID})
	if err != nil {
		return err
	}
	restored := volumeRequest("restored", map[string]string{"lockstep.dev/member": "wal"})
	if _, err := s.CreateVolume(ctx, fromSnapshot(restored, snapshot.GetSnapshot().GetSnapshotId())); err != nil {
		return err
	}
	if _, err := s.CreateVolume(ctx, fromVolume(volumeRequest("cloned", nil), dataID)); err != nil {
		return err
	}
	publish := &csi.ControllerPublishVolumeRequest{VolumeId: dataID, NodeId: testNode, VolumeCapability: mountCapability("")}
	if _, err := s.ControllerPublishVolume(ctx, publish); err != nil {
		return err
	}
	expand := &csi.ControllerExpandVolumeRequest{VolumeId: dataID, CapacityRange: &csi.CapacityRange{RequiredBytes: 128 * mib}}
	if _, err := s.ControllerExpandVolume(ctx, expand); err != nil {
		return err
	}
	modify := &csi.ControllerModifyVolumeRequest{VolumeId: dataID, MutableParameters: map[string]string{"window": "3h"}}
	if _, err := s.ControllerModifyVolume(ctx, modify); err != nil {
		return err
	}
	_, err = s.CreateVolumeGroupSnapshot(ctx, &csi.CreateVolumeGroupSnapshotRequest{Name: "both", SourceVolumeIds: []string{dataID}})
	return err
}

// teardown removes everything that lifecycle made, the volumes before their
// snapshots.
func teardown(ctx context.Context, s *site) error {
	volumes, err := s.ListVolumes(ctx, &csi.ListVolumesRequest{})
	if err != nil {
		return err
	}
	for _, entry := range volumes.GetEntries() {
		id := entry.GetVolume().GetVolumeId()
		if _, err := s.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id}); err != nil {
			return err
		}
		if _, err := s.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
			return err
		}
	}
	snapshots, err := s.ListSnapshots(ctx, &csi.ListSnapshotsRequest{})
	if err != nil {
		return err
	}
	for _, entry := range snapshots.GetEntries() {
		snapshot := entry.GetSnapshot()
		if group := snapshot.GetGroupSnapshotId(); group != "" {
			_, err = s.DeleteVolumeGroupSnapshot(ctx, &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: group})
		} else {
			_, err = s.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot.GetSnapshotId()})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkAgreement checks that a reconciled catalog and the backend agree, and
// that nothing is left half done.
func checkAgreement(t *testing.T, s *site) {
	t.Helper()
	err := catalog.New(s.db).View(func(tx *catalog.Tx) error {
		stores := s.backend.Stores()
		volumes, err := tx.Volumes(func(*catalog.Volume) bool { return true })
		if err != nil {
			return err
		}
		for _, v := range volumes {
			store, ok := stores[v.ID]
			delete(stores, v.ID)
			switch {
			case v.State != catalog.StateReady && v.State != catalog.StateRetired:
				t.Errorf("volume %s is left in state %s", v.Name, v.State)
			case !ok:
				t.Errorf("volume %s has no store", v.Name)
			case store.Retired != (v.State == catalog.StateRetired):
				t.Errorf("volume %s is %s, its store retired %t", v.Name, v.State, store.Retired)
			case v.ExpandTo != 0 || v.SizeBytes != store.Spec.SizeBytes:
				t.Errorf("volume %s has %d bytes (to be %d), its store %d", v.Name, v.SizeBytes, v.ExpandTo, store.Spec.SizeBytes)
			case (v.Publish != nil) != (store.Attached != nil):
				t.Errorf("volume %s: published %v, attached %v", v.Name, v.Publish, store.Attached)
			}
		}
		for _, store := range stores {
			t.Errorf("store of %s has no volume", store.Spec.Name)
		}
		return checkPins(t, s, tx)
	})
	if err != nil {
		t.Error(err)
	}
}

func checkPins(t *testing.T, s *site, tx *catalog.Tx) error {
	t.Helper()
	pins, err := tx.Pins()
	if err != nil {
		return err
	}
	var names []string
	needed := make(map[journal.VolumeID]bool)
	for _, pin := range pins {
		names = append(names, pin.Name)
		if pin.State != catalog.StateReady {
			t.Errorf("pin %s is left in state %s", pin.Name, pin.State)
		}
		for id := range pin.Members {
			needed[id] = true
		}
	}
	retired, err := tx.RetiredVolumes()
	if err != nil {
		return err
	}
	for _, v := range retired {
		if !needed[v.ID] {
			t.Errorf("volume %s is retired although no pin needs it", v.Name)
		}
	}
	if have := s.backend.Pins(); !slices.Equal(have, names) {
		t.Errorf("backend has pins %v, catalog %v", have, names)
	}
	groups, err := tx.Groups()
	for _, g := range groups {
		settings, ok := s.backend.Settings(g.Name)
		if !ok || g.Pending != nil || settings != g.Settings {
			t.Errorf("group %s: catalog %+v, backend %+v (%t)", g.Name, g, settings, ok)
		}
	}
	return err
}

// TestKilledAnywhere kills the controller at every moment before and after
// every effect of a whole life, and checks that the next one cleans up, and
// that the same requests then succeed.
func TestKilledAnywhere(t *testing.T) {
	ctx := context.Background()
	k := &killer{}
	whole := newSite(t)
	k.arm(whole.db, whole.backend)
	if err := errors.Join(lifecycle(ctx, whole), teardown(ctx, whole)); err != nil {
		t.Fatal(err)
	}
	total := k.moments.Load()
	if total < 100 {
		t.Fatalf("a life has only %d moments", total)
	}
	for at := int64(1); at <= total; at++ {
		t.Run(fmt.Sprintf("at %d", at), func(t *testing.T) {
			k := &killer{at: at}
			dying := newSite(t)
			k.arm(dying.db, dying.backend)
			lived := lifecycle(ctx, dying) == nil
			if lived {
				_ = teardown(ctx, dying) // this is where it dies
			}
			dying.Close()
			disarm(dying.db, dying.backend)
			revive(t, dying, lived)
		})
	}
}

// revive starts a new server on what a dead one left, and repeats everything.
// One that died in its teardown finishes that first: its snapshots are of
// volumes that may be gone, and their names are taken.
func revive(t *testing.T, dead *site, lived bool) {
	ctx := context.Background()
	s := startSite(t, dead.db.Clone(), dead.backend)
	if err := s.Reconcile(ctx); err != nil {
		t.Fatal(err)
	}
	checkAgreement(t, s)
	if lived {
		if err := teardown(ctx, s); err != nil {
			t.Fatalf("finish teardown: %v", err)
		}
	}
	if err := lifecycle(ctx, s); err != nil {
		t.Fatalf("repeat: %v", err)
	}
	checkAgreement(t, s)
	if settings, _ := s.backend.Settings("shop"); settings.Window.Hours() != 3 {
		t.Errorf("window %s, want 3h", settings.Window)
	}
	if err := teardown(ctx, s); err != nil {
		t.Fatalf("teardown: %v", err)
	}
	checkAgreement(t, s)
	if len(s.backend.Stores()) != 0 || len(s.backend.Pins()) != 0 {
		t.Errorf("left behind: stores %v, pins %v", s.backend.Stores(), s.backend.Pins())
	}
}

// TestFailedCallsRollBack lets single backend calls fail, without a crash: the
// same server must clean up or carry on.
func TestFailedCallsRollBack(t *testing.T) {
	ctx := context.Background()
	for _, call := range []string{"CreateStore", "TakePin", "ReleasePin", "DeleteStore", "RetireStore", "ExpandStore", "ModifyGroup", "Attach", "Detach"} {
		for _, late := range []bool{false, true} {
			for nth := 1; nth <= 3; nth++ {
				t.Run(fmt.Sprintf("%s %d late=%t", call, nth, late), func(t *testing.T) {
					s := newSite(t)
					seen := 0
					hook := func(name string) error {
						if name == call {
							if seen++; seen == nth {
								return controller.ErrUnavailable
							}
						}
						return nil
					}
					if late {
						s.backend.After = hook
					} else {
						s.backend.Before = hook
					}
					for range nth { // each attempt may meet the failure
						_ = lifecycle(ctx, s)
					}
					if err := lifecycle(ctx, s); err != nil {
						t.Fatal(err)
					}
					for range 2 {
						_ = teardown(ctx, s)
					}
					if err := teardown(ctx, s); err != nil {
						t.Fatal(err)
					}
					// What could only be logged is done by the next start.
					if err := s.Reconcile(ctx); err != nil {
						t.Fatal(err)
					}
					if len(s.backend.Stores()) != 0 || len(s.backend.Pins()) != 0 {
						t.Errorf("left behind: stores %v, pins %v", s.backend.Stores(), s.backend.Pins())
					}
				})
			}
		}
	}
}
