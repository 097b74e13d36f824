package controller_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/controller/controllertest"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

// settingsOf is what the catalog says that a group runs by.
func (s *site) settingsOf(name string) (g catalog.Group, err error) {
	err = catalog.New(s.db).View(func(tx *catalog.Tx) error {
		g, err = tx.Group(name)
		return err
	})
	return g, err
}

func TestRegroup(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	id := parseID(t, s.createVolume("a", map[string]string{"group": "old", "window": "48h"}).GetVolumeId())
	errAway := errors.New("no engine")
	if err := s.Regroup(ctx, id, "new", nil, func(context.Context, group.Settings) error { return errAway }); !errors.Is(err, errAway) {
		t.Fatalf("a move that fails: %v", err)
	}
	if name, err := s.GroupOf(id); name != "old" || err != nil {
		t.Errorf("group %q, %v after a move that failed", name, err)
	}
	// A crash behind the move: it is made again with the same settings.
	var given []group.Settings
	move := func(_ context.Context, settings group.Settings) error {
		given = append(given, settings)
		return nil
	}
	s.db.SetHooks(kv.Hooks{BeforeCommit: func() error { return errAway }})
	chosen := &group.Settings{CheckpointInterval: 5 * time.Second}
	if err := s.Regroup(ctx, id, "new", chosen, move); !errors.Is(err, errAway) {
		t.Fatalf("a crash behind the move: %v", err)
	}
	s.db.SetHooks(kv.Hooks{})
	for range 2 {
		if err := s.Regroup(ctx, id, "new", chosen, move); err != nil {
			t.Fatal(err)
		}
	}
	if len(given) != 2 || given[0] != given[1] || given[0].Window != 48*time.Hour || given[0].CheckpointInterval != 5*time.Second {
		t.Errorf("moves with settings %+v; want two, with the class's window and the interval that was chosen", given)
	}
	if name, err := s.GroupOf(id); name != "new" || err != nil {
		t.Errorf("group %q, %v", name, err)
	}
	if _, err := s.settingsOf("old"); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("the group that has no members is left: %v", err)
	}
	if g, err := s.settingsOf("new"); err != nil || g.Settings != given[0] || g.Chosen != *chosen {
		t.Errorf("group %+v, %v", g, err)
	}
	if err := s.Regroup(ctx, journal.VolumeID{9}, "new", nil, move); !errors.Is(err, controller.ErrNotFound) {
		t.Errorf("no such volume: %v", err)
	}
}

// asked is the context of a call, which says when the call asks whether it is to go on: it
// has read the volume by then, and waits for its turn next.
type asked struct {
	context.Context
	once func()
}

func (a asked) Err() error {
	a.once()
	return a.Context.Err()
}

// A change of settings by a volume that is being moved to another group meanwhile is not
// one of the group that it has left.
func TestAVolumeThatMovesMeanwhileDoesNotModifyItsOldGroup(t *testing.T) {
	s := newSite(t)
	_, wal := shop(s)
	before, err := s.settingsOf("shop")
	if err != nil {
		t.Fatal(err)
	}
	modify := &csi.ControllerModifyVolumeRequest{VolumeId: wal, MutableParameters: map[string]string{"window": "3h"}}
	modified := make(chan error, 1)
	err = s.Regroup(t.Context(), parseID(t, wal), "other", nil, func(context.Context, group.Settings) error {
		read := make(chan struct{})
		ctx := asked{t.Context(), sync.OnceFunc(func() { close(read) })}
		go func() {
			_, err := s.ControllerModifyVolume(ctx, modify)
			modified <- err
		}()
		<-read
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, <-modified, codes.Aborted)
	if after, err := s.settingsOf("shop"); err != nil || after.Settings != before.Settings {
		t.Errorf("the group that it has left has %+v, want %+v, %v", after.Settings, before.Settings, err)
	}
}

// slowPins is a backend that takes one pin, and answers when it is told to.
type slowPins struct {
	*controllertest.Backend
	taken, settle chan struct{}
}

func (b slowPins) TakePin(ctx context.Context, groupName, name string, at controller.Moment) (controller.PinnedPoint, error) {
	point, err := b.Backend.TakePin(ctx, groupName, name, at)
	close(b.taken)
	<-b.settle
	return point, err
}

// A snapshot that is begun while one of its volumes is being moved to another group keeps
// that one's store, also if it is deleted there before the snapshot is ready.
func TestASnapshotKeepsAVolumeThatMovesMeanwhile(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	pins := slowPins{s.backend, make(chan struct{}), make(chan struct{})}
	server, err := controller.New(controller.Config{Catalog: catalog.New(s.db), Backend: pins, Nodes: testNodes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	s.Server = server
	data, log := shop(s)
	s.write(log, "lines")
	made := make(chan *csi.VolumeGroupSnapshot, 1)
	err = s.Regroup(ctx, parseID(t, log), "other", nil, func(context.Context, group.Settings) error {
		go func() {
			resp, err := s.CreateVolumeGroupSnapshot(ctx, &csi.CreateVolumeGroupSnapshotRequest{Name: "monday", SourceVolumeIds: []string{data, log}})
			if err != nil {
				t.Error(err)
			}
			made <- resp.GetGroupSnapshot()
		}()
		<-pins.taken
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	_, err = s.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: log})
	close(pins.settle)
	if err != nil {
		t.Error(err)
	}
	found := false
	for _, member := range (<-made).GetSnapshots() {
		if member.GetSourceVolumeId() != log {
			continue
		}
		copied := s.createFrom(fromSnapshot(volumeRequest("copy", nil), member.GetSnapshotId())).GetVolumeId()
		if found = true; s.content(copied) != "lines" {
			t.Errorf("the snapshot has %q of the volume that moved, want what it had", s.content(copied))
		}
	}
	if !found {
		t.Error("the snapshot does not have the volume that moved")
	}
	checkAgreement(t, s)
}

// A group's own settings win over its volumes' parameters, and give way to them
// again when they are taken back.
func TestChoose(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	s.createVolume("a", map[string]string{"group": "shop", "window": "48h", "replicateTo": "b"})
	want := func(window, interval time.Duration, peer string) {
		t.Helper()
		g, err := s.settingsOf("shop")
		if err != nil || g.Pending != nil || g.Settings.Window != window || g.Settings.CheckpointInterval != interval || g.Settings.ReplicateTo != peer {
			t.Errorf("%+v, %v; want window %s, interval %s, peer %q", g, err, window, interval, peer)
		}
		if settings, ok := s.backend.Settings("shop"); !ok || settings != g.Settings {
			t.Errorf("the backend has %+v, the catalog %+v", settings, g.Settings)
		}
	}
	want(48*time.Hour, time.Second, "b")
	chosen := group.Settings{Window: time.Hour, ReplicateTo: "c"}
	if err := s.Choose(ctx, "shop", chosen); err != nil {
		t.Fatal(err)
	}
	want(time.Hour, time.Second, "c")
	id := s.createVolume("b", map[string]string{"group": "shop"}).GetVolumeId()
	modify := func(parameters map[string]string) error {
		_, err := s.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{VolumeId: id, MutableParameters: parameters})
		return err
	}
	wantCode(t, modify(map[string]string{"window": "2h"}), codes.InvalidArgument)
	if err := modify(map[string]string{"checkpointInterval": "2s"}); err != nil {
		t.Fatal(err)
	}
	want(time.Hour, 2*time.Second, "c")
	bad := group.Settings{CheckpointInterval: 72 * time.Hour}
	if err := s.Choose(ctx, "shop", bad); !errors.Is(err, controller.ErrInvalid) {
		t.Errorf("an interval longer than the window: %v, want ErrInvalid", err)
	}
	want(time.Hour, 2*time.Second, "c")
	if err := s.Choose(ctx, "shop", group.Settings{}); err != nil {
		t.Fatal(err)
	}
	want(48*time.Hour, 2*time.Second, "b")
	if err := s.Choose(ctx, "nobody", chosen); !errors.Is(err, controller.ErrNotFound) {
		t.Errorf("no such group: %v", err)
	}
}

// A failover brings the settings that the group had at the other site, and nobody tells the
// catalog, which has those of the last time that this site was the primary: a change of one
// setting leaves the others as they are.
func TestSettingsThatCameWithAFailover(t *testing.T) {
	at := func(t *testing.T) (*site, string) {
		s := newSite(t)
		id := s.createVolume("a", map[string]string{"group": "shop", "window": "48h"}).GetVolumeId()
		there, _ := s.backend.Settings("shop")
		there.Window, there.JournalBytes = 96*time.Hour, 8<<30
		if err := s.backend.ModifyGroup(t.Context(), "shop", there); err != nil {
			t.Fatal(err)
		}
		return s, id
	}
	check := func(t *testing.T, s *site, window, interval time.Duration) {
		t.Helper()
		now, _ := s.backend.Settings("shop")
		if now.Window != window || now.JournalBytes != 8<<30 || now.CheckpointInterval != interval {
			t.Errorf("the group has %+v, want window %s, interval %s and the journal size as it was", now, window, interval)
		}
		if g, err := s.settingsOf("shop"); err != nil || g.Settings != now || g.Pending != nil {
			t.Errorf("the catalog has %+v, %v, the group %+v", g, err, now)
		}
	}
	t.Run("Modify", func(t *testing.T) {
		s, id := at(t)
		must[*csi.ControllerModifyVolumeResponse](t)(s.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{
			VolumeId: id, MutableParameters: map[string]string{"checkpointInterval": "2s"}}))
		check(t, s, 96*time.Hour, 2*time.Second)
	})
	t.Run("ModifyToWhatWas", func(t *testing.T) {
		s, id := at(t)
		must[*csi.ControllerModifyVolumeResponse](t)(s.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{
			VolumeId: id, MutableParameters: map[string]string{"window": "48h"}}))
		check(t, s, 48*time.Hour, time.Second)
	})
	t.Run("Choose", func(t *testing.T) {
		s, _ := at(t)
		if err := s.Choose(t.Context(), "shop", group.Settings{CheckpointInterval: 2 * time.Second}); err != nil {
			t.Fatal(err)
		}
		check(t, s, 96*time.Hour, 2*time.Second)
	})
	t.Run("ChooseNothing", func(t *testing.T) {
		s, _ := at(t)
		if err := s.Choose(t.Context(), "shop", group.Settings{}); err != nil {
			t.Fatal(err)
		}
		check(t, s, 96*time.Hour, time.Second)
	})
	t.Run("ChangeThatWasLeft", func(t *testing.T) {
		s, _ := at(t)
		there, _ := s.backend.Settings("shop")
		s.backend.Before = func(call string) error { return controller.ErrUnavailable }
		if err := s.Choose(t.Context(), "shop", group.Settings{Window: 24 * time.Hour}); !errors.Is(err, controller.ErrUnavailable) {
			t.Fatal(err)
		}
		s.backend.Before = nil
		there.Window = 120 * time.Hour // another failover, and back
		if err := s.backend.ModifyGroup(t.Context(), "shop", there); err != nil {
			t.Fatal(err)
		}
		if err := s.Choose(t.Context(), "shop", group.Settings{}); err != nil {
			t.Fatal(err)
		}
		check(t, s, 120*time.Hour, time.Second)
	})
}

// A group of which another site is the primary has that one's settings. What is refused
// here is not tried again when it is no replica any more.
func TestAReplicasSettingsAreItsPrimarys(t *testing.T) {
	s := newSite(t)
	id := s.createVolume("a", map[string]string{"group": "shop", "window": "48h"}).GetVolumeId()
	s.backend.Before = func(call string) error {
		if call == "ModifyGroup" {
			return controller.ErrNotPrimary
		}
		return nil
	}
	_, err := s.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{VolumeId: id, MutableParameters: map[string]string{"window": "24h"}})
	wantCode(t, err, codes.FailedPrecondition)
	if g, err := s.settingsOf("shop"); err != nil || g.Pending != nil || g.Settings.Window != 48*time.Hour {
		t.Errorf("the catalog has %+v, %v", g, err)
	}
	if err := s.Reconcile(t.Context()); err != nil {
		t.Error(err)
	}
}

// A claim chooses, by name, which member's image it gets of a snapshot.
func TestAClaimNamesAMember(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	known := claims{
		"prod/data": {Group: "prod/shop"},
		"prod/log":  {Group: "prod/shop"},
		"prod/copy": {Group: "prod/copy", Member: "prod/log"},
		"prod/none": {Group: "prod/copy", Member: "prod/other"},
	}
	server, err := controller.New(controller.Config{Catalog: catalog.New(s.db), Backend: s.backend, Nodes: testNodes, Claims: known})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	s.Server = server
	request := func(claim string) *csi.CreateVolumeRequest {
		return volumeRequest("pvc-"+claim, map[string]string{"csi.storage.k8s.io/pvc/namespace": "prod", "csi.storage.k8s.io/pvc/name": claim})
	}
	data, log := s.createFrom(request("data")).GetVolumeId(), s.createFrom(request("log")).GetVolumeId()
	s.write(data, "rows")
	s.write(log, "lines")
	snapshot := s.createSnapshot("monday", data, "").GetSnapshotId()
	made := s.createFrom(fromSnapshot(request("copy"), snapshot)).GetVolumeId()
	if got := s.content(made); got != "lines" {
		t.Errorf("the copy has %q, want what the named member had", got)
	}
	_, err = s.CreateVolume(ctx, fromSnapshot(request("none"), snapshot))
	wantCode(t, err, codes.InvalidArgument)
	known["prod/none"] = known["prod/copy"]
	_, err = s.CreateVolume(ctx, request("none"))
	wantCode(t, err, codes.InvalidArgument)
}

// What a volume's parameters say holds again when the group gives up settings of its
// own, also what was said while both agreed.
func TestParametersThatAgreedAreKept(t *testing.T) {
	s := newSite(t)
	data := s.createVolume("data", map[string]string{"group": "prod/shop", "window": "24h"}).GetVolumeId()
	choose := func(chosen group.Settings) {
		t.Helper()
		if err := s.Choose(t.Context(), "prod/shop", chosen); err != nil {
			t.Fatal(err)
		}
	}
	choose(group.Settings{Window: 72 * time.Hour})
	must[*csi.ControllerModifyVolumeResponse](t)(s.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{
		VolumeId: data, MutableParameters: map[string]string{"window": "72h"}}))
	choose(group.Settings{})
	if got, _ := s.backend.Settings("prod/shop"); got.Window != 72*time.Hour {
		t.Errorf("the window is %s, want the parameters' 72h", got.Window)
	}
}

// A group whose last volume goes while its settings are changed is not there again when
// that is done: one of its name that is made later has its own settings.
func TestAGroupThatEndsWhileItChangesHasEnded(t *testing.T) {
	s := newSite(t)
	s.createVolume("data", map[string]string{"group": "prod/shop"})
	s.backend.After = func(call string) error {
		if call != "ModifyGroup" {
			return nil
		}
		return catalog.New(s.db).Update(func(tx *catalog.Tx) error { return tx.DeleteGroup("prod/shop") })
	}
	if err := s.Choose(t.Context(), "prod/shop", group.Settings{Window: 48 * time.Hour}); err != nil && !errors.Is(err, controller.ErrNotFound) {
		t.Fatal(err)
	}
	if g, err := s.settingsOf("prod/shop"); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("the group's record: %+v, %v, want none", g, err)
	}
}
