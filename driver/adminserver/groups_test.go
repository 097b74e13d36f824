package adminserver

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/keylock"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

// mute are members of which those of one group do not answer.
type mute struct {
	groups.Members
	group string
}

func (mute) Ends(group.State) (oldest, newest []journal.CheckpointNumber) {
	return []journal.CheckpointNumber{1}, []journal.CheckpointNumber{1}
}

func (m mute) HistoriesIn(_ context.Context, st group.State, _, _ journal.CheckpointNumber) ([]group.History, error) {
	if st.Name == m.group {
		return nil, errors.New("the disk hangs")
	}
	return nil, nil
}

func (m mute) Histories(ctx context.Context, st group.State) ([]group.History, error) {
	return m.HistoriesIn(ctx, st, 0, 0)
}

func (mute) Whole(group.State) bool   { return true }
func (mute) Serving(group.State) bool { return true }

// withGroups is a site of which only its groups matter.
type withGroups struct {
	noVolumes
	groups *groups.Groups
}

func (w withGroups) Groups() *groups.Groups { return w.groups }
func (withGroups) Name() string             { return "here" }

// The status of a site shows a group whose members do not answer, of all groups, and says
// so.
func TestASilentGroupIsShown(t *testing.T) {
	db := kv.NewMemory()
	registry, err := group.OpenRegistry(db)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bank", "shop", "wiki"} {
		if _, err := registry.Update(name, func(st *group.State) error {
			st.Role, st.Term, st.Settings, st.Members = group.RolePrimary, 1, group.Settings{}.WithDefaults(), []journal.VolumeID{{1}}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	now := clock.NewManual(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
	all, err := groups.Open(groups.Config{Site: "here", DB: db, Members: mute{group: "shop"}, Locks: &keylock.Set{}, Clock: now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Site: withGroups{groups: all}, Clock: now})
	status, err := s.GetStatus(t.Context(), &adminv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	listed, err := s.ListGroups(t.Context(), &adminv1.ListGroupsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range [][]*adminv1.Group{status.GetGroups(), listed.GetGroups()} {
		if len(got) != 3 || got[0].GetName() != "bank" || got[1].GetName() != "shop" || got[2].GetName() != "wiki" {
			t.Fatalf("groups %v", got)
		}
		for _, g := range got {
			ready := g.GetConditions()[0]
			if silent := ready.GetReason() == "MembersSilent"; ready.GetType() != "Ready" || ready.GetOk() || silent != (g.GetName() == "shop") {
				t.Errorf("group %s: %v", g.GetName(), ready)
			}
		}
	}
}
