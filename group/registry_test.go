package group_test

import (
	"errors"
	"slices"
	"testing"
	"time"

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
	for _, interval := range []time.Duration{group.MinCheckpointInterval, 700 * time.Millisecond, time.Second, time.Hour} {
		s := group.Settings{CheckpointInterval: interval}.WithDefaults()
		if h, err := journal.ParseHistory(s.History); err != nil || h.String() != s.History || s.Validate() != nil || s.Window != 7*24*time.Hour {
			t.Errorf("defaults for an interval of %v: %+v, %v, %v", interval, s, err, s.Validate())
		}
	}
	if s := (group.Settings{Window: time.Hour}).WithDefaults(); s.History != "" {
		t.Errorf("a window alone comes with history %q", s.History)
	}
	thinned := group.Settings{History: "1s:1h,1m:7d"}.WithDefaults()
	if err := thinned.Validate(); err != nil || thinned.Window != 7*24*time.Hour {
		t.Errorf("a history alone gives a window of %v, %v", thinned.Window, err)
	}
	for name, change := range map[string]func(*group.Settings){
		"interval below 100 ms":  func(s *group.Settings) { s.CheckpointInterval = group.MinCheckpointInterval - 1 },
		"negative barrier":       func(s *group.Settings) { s.BarrierTimeout = -1 },
		"barrier above 10 s":     func(s *group.Settings) { s.BarrierTimeout = group.MaxBarrierTimeout + 1 },
		"window below interval":  func(s *group.Settings) { s.Window = s.CheckpointInterval - 1 },
		"history unreadable":     func(s *group.Settings) { s.History = "1s" },
		"history and a window":   func(s *group.Settings) { s.History = "1s:1h,1m:2h" },
		"negative journal bytes": func(s *group.Settings) { s.JournalBytes = -1 },
	} {
		bad := good
		change(&bad)
		if bad.Validate() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// A primary group that ends is remembered until its peer knows, also when a group of its
// name begins again; one without a peer, or a replica, is not.
func TestRegistryRemembersWhatHasEnded(t *testing.T) {
	db := kv.NewMemory()
	r, err := group.OpenRegistry(db)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, role group.Role, peer string) {
		t.Helper()
		_, err := r.Update(name, func(s *group.State) error {
			s.Role, s.Term, s.Settings.ReplicateTo, s.Members = role, 4, peer, []journal.VolumeID{{1}}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ended := func() []group.Ended {
		t.Helper()
		again, err := group.OpenRegistry(db)
		if err != nil {
			t.Fatal(err)
		}
		all, err := again.Ended()
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	put("alone", group.RolePrimary, "")
	put("fed", group.RoleReplica, "b")
	put("sent", group.RolePrimary, "b")
	put("moved", group.RolePrimary, "b")
	for _, name := range []string{"alone", "fed", "sent", "never"} {
		if err := r.Delete(name); err != nil {
			t.Fatal(err)
		}
	}
	err = r.Move("moved", "other", func(from, to *group.State) error {
		from.Members, to.Members, to.Role = nil, []journal.VolumeID{{1}}, group.RolePrimary
		return nil
	}, func(kv.Tx) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	want := []group.Ended{{Name: "moved", Peer: "b", Term: 4}, {Name: "sent", Peer: "b", Term: 4}}
	if got := ended(); !slices.Equal(got, want) {
		t.Errorf("ended are %+v, want %+v", got, want)
	}
	if err := r.ForgetEnd(want[1]); err != nil {
		t.Fatal(err)
	}
	// Made anew without a peer, with another one, and with the same one: b is told, but for
	// the time in which it is announced a group of that name.
	for _, peer := range []string{"", "c", "b"} {
		put("moved", group.RolePrimary, peer)
		if got := ended(); !slices.Equal(got, want[:1]) {
			t.Errorf("while a group of its name has the peer %q, ended are %+v, want %+v", peer, got, want[:1])
		}
		st, err := r.Get("moved")
		if err != nil || st.Announces(want[0]) != (peer == "b") {
			t.Errorf("a group with the peer %q announces itself to b: %t, %v", peer, st.Announces(want[0]), err)
		}
	}
	// It ends as well, and b, which still has the replica of the first one, would not take an
	// end at a lower term.
	_, err = r.Update("moved", func(s *group.State) error { s.Term = 1; return nil })
	if err == nil {
		err = r.Delete("moved")
	}
	if got := ended(); err != nil || !slices.Equal(got, want[:1]) {
		t.Errorf("after a second end, ended are %+v, %v, want %+v", got, err, want[:1])
	}
	put("moved", group.RolePrimary, "c")
	if err := r.Delete("moved"); err != nil {
		t.Fatal(err)
	}
	both := []group.Ended{want[0], {Name: "moved", Peer: "c", Term: 4}}
	if got := ended(); !slices.Equal(got, both) {
		t.Errorf("ended are %+v, want %+v", got, both)
	}
	// One that leaves its peer, which knew it, has not ended.
	put("moved", group.RolePrimary, "b")
	put("moved", group.RolePrimary, "")
	if got := ended(); !slices.Equal(got, both[1:]) {
		t.Errorf("ended are %+v, want %+v", got, both[1:])
	}
	if err := r.ForgetEnd(both[1]); err != nil {
		t.Fatal(err)
	}
	if got := ended(); len(got) != 0 {
		t.Errorf("ended are %+v, want none", got)
	}
}

// An end that an earlier version noted is told, and forgotten.
func TestAnEndOfAnEarlierVersionIsTold(t *testing.T) {
	db := kv.NewMemory()
	err := db.Update(func(tx kv.Tx) error {
		return tx.Put("ended-groups", []byte("shop"), []byte(`{"Name":"shop","Peer":"b","Term":4}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := group.OpenRegistry(db)
	if err != nil {
		t.Fatal(err)
	}
	all, err := r.Ended()
	if err != nil || len(all) != 1 || all[0] != (group.Ended{Name: "shop", Peer: "b", Term: 4}) {
		t.Fatalf("ended are %+v, %v", all, err)
	}
	if err := r.ForgetEnd(all[0]); err != nil {
		t.Fatal(err)
	}
	if all, err = r.Ended(); err != nil || len(all) != 0 {
		t.Errorf("ended are %+v, %v, want none", all, err)
	}
}
