package adminserver

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// noVolumes is a site of which only its groups matter.
type noVolumes struct{ Site }

func (noVolumes) Volumes() []Volume { return nil }
func (noVolumes) Volume(journal.VolumeID) (Volume, error) {
	return Volume{}, errors.New("no such volume")
}
func (noVolumes) Peers() map[string]string { return map[string]string{"there": "there:7443"} }

// A group that is to be replicated to a site that is no peer says so, also at rest.
func TestAMissingPeerIsACondition(t *testing.T) {
	s := &Server{cfg: Config{Site: noVolumes{}, Clock: clock.NewManual(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))}}
	for to, want := range map[string]bool{"": false, "there": false, "nowhere": true} {
		g := &groups.Summary{State: group.State{Name: "shop", Role: group.RolePrimary, Settings: group.Settings{ReplicateTo: to}.WithDefaults()}, Resting: true}
		told := false
		for _, c := range s.conditions(g, nil) {
			told = told || c.GetType() == "Replicating" && !c.GetOk() && c.GetReason() == "NoPeer"
		}
		if told != want {
			t.Errorf("to %q: told %v, want %v", to, told, want)
		}
	}
}

// A history that is shorter than wanted is a condition, once some of it was given up.
func TestShortHistoryIsACondition(t *testing.T) {
	now := clock.NewManual(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
	s := &Server{cfg: Config{Site: noVolumes{}, Clock: now}}
	tests := []struct {
		name     string
		achieved time.Duration
		whole    bool
		want     bool
	}{
		{"long enough", 24 * time.Hour, false, false},
		{"within a segment of it", 23 * time.Hour, false, false},
		{"short", 22 * time.Hour, false, true},
		{"young", 22 * time.Hour, true, false},
	}
	for _, tt := range tests {
		point := &group.Point{Checkpoint: 1, Time: now.Now().Add(-tt.achieved)}
		g := &groups.Summary{State: group.State{Name: "shop", Role: group.RolePrimary, Settings: group.Settings{Window: 24 * time.Hour}.WithDefaults()},
			Oldest: point, Newest: point, Whole: tt.whole}
		got := false
		for _, c := range s.conditions(g, nil) {
			if c.GetType() == "WindowAchieved" {
				got = !c.GetOk() && c.GetReason() == "HistoryTooShort" && c.GetMessage() != ""
			}
		}
		if got != tt.want {
			t.Errorf("%s: told %v, want %v", tt.name, got, tt.want)
		}
	}
}

// Points of a time that is still to come are a condition: nobody finds them by time.
func TestPointsAheadAreACondition(t *testing.T) {
	now := clock.NewManual(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
	s := &Server{cfg: Config{Site: noVolumes{}, Clock: now}}
	for ahead, want := range map[time.Duration]string{-time.Second: "RecoveryPoint", time.Minute: "RecoveryPoint", 2 * time.Minute: "PointsAhead", 1000 * time.Hour: "PointsAhead"} {
		point := &group.Point{Checkpoint: 1, Time: now.Now().Add(ahead)}
		g := &groups.Summary{State: group.State{Name: "shop", Role: group.RolePrimary, Settings: group.Settings{}.WithDefaults()}, Oldest: point, Newest: point, Whole: true}
		got := ""
		for _, c := range s.conditions(g, nil) {
			if c.GetType() == "Ready" {
				got = c.GetReason()
				if c.GetOk() == (want == "PointsAhead") {
					t.Errorf("%s ahead: ready %t", ahead, c.GetOk())
				}
			}
		}
		if got != want {
			t.Errorf("%s ahead: %q, want %q", ahead, got, want)
		}
	}
}

// oneVolume is a site with a volume of which only the lack of room matters.
type oneVolume struct {
	Site
	space journal.SpaceStats
}

func (o oneVolume) Volumes() []Volume {
	return []Volume{{ID: journal.VolumeID{1}, Group: "shop", Journal: journal.Stats{Space: o.space}}}
}

// A replica that has no point any more, because a member gave it up, says so and who.
func TestAPointThatWasGivenUpIsACondition(t *testing.T) {
	now := clock.NewManual(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
	tests := []struct {
		name    string
		givenUp uint64
		newest  *group.Point
		want    string
	}{
		{"never had one", 0, nil, "NoRecoveryPoint"},
		{"gave it up", 1, nil, "PointGivenUp"},
		{"has another", 1, &group.Point{Checkpoint: 1, Time: now.Now()}, "RecoveryPoint"},
	}
	for _, tt := range tests {
		s := &Server{cfg: Config{Site: oneVolume{space: journal.SpaceStats{PointsGivenUp: tt.givenUp}}, Clock: now}}
		g := &groups.Summary{State: group.State{Name: "shop", Role: group.RoleReplica, Settings: group.Settings{}.WithDefaults()}, Newest: tt.newest}
		for _, c := range s.conditions(g, nil) {
			if c.GetType() == "Ready" && (c.GetReason() != tt.want || c.GetOk() != (tt.newest != nil)) {
				t.Errorf("%s: %v, want %s", tt.name, c, tt.want)
			}
		}
	}
}

// When a peer was last heard of is told also, and above all, when it cannot be reached.
func TestAPeerThatIsGoneWasHeardOf(t *testing.T) {
	heard := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	gone := errors.New("connection refused")
	p := &adminv1.Peer{Site: "b"}
	for _, m := range []replication.Metrics{{Announced: heard, LastError: gone}, {LastError: gone}, {Announced: heard.Add(-time.Hour), LastError: gone}} {
		tellOf(p, &m)
	}
	if p.GetConnected() || p.GetLastError() == "" || !p.GetSince().AsTime().Equal(heard) {
		t.Errorf("%v, want a peer that was last heard of at %v", p, heard)
	}
}

// What a failover prints is in the same order each time: scripts compare a dry run with
// what is done then.
func TestVolumesOfAFailoverAreInOrder(t *testing.T) {
	s := &Server{cfg: Config{Site: noVolumes{}}}
	members := map[journal.VolumeID]journal.Position{}
	for i := range 16 {
		members[journal.VolumeID{byte(i)}] = journal.Position{}
	}
	out := s.failedOver(members)
	if len(out) != 16 || !slices.IsSortedFunc(out, func(a, b *adminv1.FailoverVolume) int { return strings.Compare(a.GetId(), b.GetId()) }) {
		t.Errorf("%d volumes, in no order: %v", len(out), out)
	}
}
