package group_test

import (
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

func newRegistry(t *testing.T) *group.Registry {
	t.Helper()
	r, err := group.OpenRegistry(kv.NewMemory())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRegistryRemembers(t *testing.T) {
	db := kv.NewMemory()
	r, err := group.OpenRegistry(db)
	if err != nil {
		t.Fatal(err)
	}
	want := group.State{Name: "shop", Role: group.RolePrimary, Term: 7, Settings: settings(), Members: []journal.VolumeID{{1}, {2}},
		Rewind: &group.Rewind{ID: "r", Back: map[journal.VolumeID]journal.Position{{1}: {Timeline: 3, Seq: 4}}}, LastCheckpoint: 9}
	if _, err := r.Update("shop", func(s *group.State) error { *s = want; return nil }); err != nil {
		t.Fatal(err)
	}
	failed := errors.New("no")
	if _, err := r.Update("shop", func(s *group.State) error { s.Term = 8; return failed }); !errors.Is(err, failed) {
		t.Errorf("failed change: %v", err)
	}
	again, err := group.OpenRegistry(db)
	if err != nil {
		t.Fatal(err)
	}
	got, err := again.Get("shop")
	if err != nil || got.Term != 7 || got.Settings != want.Settings || len(got.Members) != 2 || got.Rewind.Back[journal.VolumeID{1}].Seq != 4 || got.LastCheckpoint != 9 {
		t.Errorf("read back %+v, %v", got, err)
	}
	if err := again.Delete("shop"); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Get("shop"); !errors.Is(err, group.ErrNotFound) {
		t.Errorf("get after delete: %v", err)
	}
	if n := len(again.List()); n != 0 {
		t.Errorf("%d groups after delete", n)
	}
}

func TestSettingsBounds(t *testing.T) {
	good := group.Settings{}.WithDefaults()
	if err := good.Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	for name, change := range map[string]func(*group.Settings){
		"interval below 100 ms":  func(s *group.Settings) { s.CheckpointInterval = group.MinCheckpointInterval - 1 },
		"negative barrier":       func(s *group.Settings) { s.BarrierTimeout = -1 },
		"barrier above 10 s":     func(s *group.Settings) { s.BarrierTimeout = group.MaxBarrierTimeout + 1 },
		"window below interval":  func(s *group.Settings) { s.Window = s.CheckpointInterval - 1 },
		"negative journal bytes": func(s *group.Settings) { s.JournalBytes = -1 },
	} {
		bad := good
		change(&bad)
		if bad.Validate() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
