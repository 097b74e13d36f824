package operator

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// sound is a replicated group of one volume with nothing wrong.
func sound() *view {
	oldest := group.Point{Checkpoint: 1, Time: testStart}
	newest := group.Point{Checkpoint: 9, Time: testStart.Add(time.Hour)}
	return &view{now: testStart.Add(time.Hour), generation: 2,
		summary: groups.Summary{State: group.State{Name: "a/shop", Role: group.RolePrimary, Term: 1, Members: []journal.VolumeID{id(1)},
			Settings: group.Settings{Window: time.Hour, ReplicateTo: "there"}.WithDefaults()}, Oldest: &oldest, Newest: &newest, Started: true,
			Sending: &replication.Metrics{Volumes: []replication.VolumeMetrics{{Volume: id(1), Connected: true}}}},
		volumes: []fleet.Volume{{ID: id(1), Claim: "a/data", Connected: true, State: control.State{Store: &control.StoreState{Horizon: journal.Position{Seq: 7}}}}}}
}

func TestConditions(t *testing.T) {
	tests := []struct {
		name                       string
		change                     func(*view)
		ready, window, replicating string // reasons; with ! in front: not true
		state                      v1alpha1.ReplicationState
	}{
		{"sound", func(*view) {}, reasonTaking, reasonAchieved, reasonConnected, v1alpha1.ReplicationSynced},
		{"behind", func(v *view) { v.summary.Sending.Volumes[0].LagRecords = 3 }, reasonTaking, reasonAchieved, reasonConnected, v1alpha1.ReplicationStreaming},
		{"image", func(v *view) { v.summary.Sending.Volumes[0].ImageSizeBytes = gib }, reasonTaking, reasonAchieved, reasonConnected, v1alpha1.ReplicationCopying},
		{"stream lost", func(v *view) { v.summary.Sending.Volumes[0].Connected = false }, reasonTaking, reasonAchieved, "!" + reasonDisconnected, v1alpha1.ReplicationDisconnected},
		{"two primaries", func(v *view) { v.summary.Sending.LastError = replication.ErrSplitBrain }, reasonTaking, reasonAchieved, "!" + reasonSplit, v1alpha1.ReplicationDisconnected},
		{"no peer", func(v *view) { v.summary.Sending = nil }, reasonTaking, reasonAchieved, "!" + reasonDisconnected, v1alpha1.ReplicationDisconnected},
		{"at rest", func(v *view) { v.summary.Sending, v.summary.Started = nil, false }, reasonIdle, reasonAchieved, reasonConnected, v1alpha1.ReplicationSynced},
		{"not replicated", func(v *view) { v.summary.State.Settings.ReplicateTo, v.summary.Sending = "", nil }, reasonTaking, reasonAchieved, "", ""},
		{"no engine", func(v *view) { v.volumes[0].Connected, v.volumes[0].Err = false, errors.New("unschedulable") }, "!" + reasonEngine, reasonAchieved, reasonConnected, v1alpha1.ReplicationSynced},
		{"missed", func(v *view) { v.summary.Stats.LastError = group.ErrBarrier }, "!" + reasonMissed, reasonAchieved, reasonConnected, v1alpha1.ReplicationSynced},
		{"clock was ahead", func(v *view) { v.summary.Newest.Time = v.now.Add(3 * time.Hour) }, "!" + reasonAhead, reasonAchieved, reasonConnected, v1alpha1.ReplicationSynced},
		{"replica whose primary's clock is ahead", func(v *view) {
			fed(v)
			v.summary.Newest.Time = v.now.Add(2 * time.Minute)
		}, "!" + reasonAhead, reasonAchieved, reasonConnected, v1alpha1.ReplicationSynced},
		{"clocks that differ a little", func(v *view) { v.summary.Newest.Time = v.now.Add(time.Second) }, reasonTaking, reasonAchieved, reasonConnected, v1alpha1.ReplicationSynced},
		{"no point", func(v *view) { v.summary.Newest, v.summary.Oldest = nil, nil }, "!" + reasonNoPoint, "!" + reasonUnknown, reasonConnected, v1alpha1.ReplicationSynced},
		{"short history", func(v *view) { v.summary.State.Settings.Window = 24 * time.Hour }, reasonTaking, "!" + reasonShort, reasonConnected, v1alpha1.ReplicationSynced},
		{"backing full", func(v *view) { v.volumes[0].State.Store.Space.ShortSince = v.now }, reasonTaking, reasonAchieved, reasonConnected, v1alpha1.ReplicationSynced},
		{"backing full for long", func(v *view) {
			v.volumes[0].State.Store.Space.ShortSince, v.summary.Stats.LastError = v.now, engine.ErrNoSpace
			v.summary.State.Settings.Window = 24 * time.Hour
		}, "!" + reasonMissed, "!" + reasonShort, reasonConnected, v1alpha1.ReplicationSynced},
		{"young", func(v *view) {
			v.summary.State.Settings.Window, v.summary.Whole = 24*time.Hour, true
		}, reasonTaking, reasonAchieved, reasonConnected, v1alpha1.ReplicationSynced},
		{"replica", func(v *view) {
			fed(v)
		}, reasonFed, reasonAchieved, reasonConnected, v1alpha1.ReplicationSynced},
		{"replica that gave a point up and has another", func(v *view) {
			fed(v)
			v.volumes[0].State.Store.Space.PointsGivenUp = 1
		}, reasonFed, reasonAchieved, reasonConnected, v1alpha1.ReplicationSynced},
		{"replica that gave its point up", func(v *view) {
			fed(v)
			v.summary.Newest, v.summary.Oldest = nil, nil
			v.volumes[0].State.Store.Space.PointsGivenUp = 1
		}, "!" + reasonPointGivenUp, "!" + reasonUnknown, reasonConnected, v1alpha1.ReplicationSynced},
		{"replica of nobody heard of", func(v *view) {
			fed(v).Heard = v.now.Add(-time.Minute)
		}, reasonFed, reasonAchieved, "!" + reasonDisconnected, v1alpha1.ReplicationDisconnected},
		{"replica without room", func(v *view) {
			fed(v)
			v.volumes[0].Trouble = errors.New("the class cannot expand")
		}, "!" + reasonEngine, reasonAchieved, reasonConnected, v1alpha1.ReplicationSynced},
		{"orphaned replica", func(v *view) {
			fed(v)
			v.summary.State.Orphaned = v.now
		}, reasonFed, reasonAchieved, "!" + reasonOrphaned, v1alpha1.ReplicationOrphaned},
		{"another group of this name", func(v *view) { v.summary.Sending.LastError = replication.ErrOtherGroup }, reasonTaking, reasonAchieved, "!" + reasonOtherGroup, v1alpha1.ReplicationDisconnected},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := sound()
			before := statusOf(v, &v1alpha1.ConsistencyGroupStatus{})
			tt.change(v)
			got := statusOf(v, &before)
			for kind, want := range map[string]string{v1alpha1.GroupReady: tt.ready, v1alpha1.GroupWindowAchieved: tt.window, v1alpha1.GroupReplicating: tt.replicating} {
				reason := ""
				if c := meta.FindStatusCondition(got.Conditions, kind); c != nil {
					if reason = c.Reason; c.Status != "True" {
						reason = "!" + reason
					}
				}
				if reason != want {
					t.Errorf("%s is %q, want %q", kind, reason, want)
				}
			}
			if got.Replication != nil && got.Replication.State != tt.state || got.Replication == nil && tt.state != "" {
				t.Errorf("replication %+v, want %s", got.Replication, tt.state)
			}
			again := statusOf(v, &got)
			if isUrgent(&got, &again) {
				t.Error("what did not change is urgent")
			}
		})
	}
}

// Figures that advance wait; what a person waits for does not.
func TestUrgency(t *testing.T) {
	tests := []struct {
		name   string
		change func(*view)
		urgent bool
	}{
		{"a point", func(v *view) { v.summary.Newest.Checkpoint++; v.now = v.now.Add(time.Second) }, false},
		{"lag", func(v *view) { v.summary.Sending.Volumes[0].LagRecords = 1 }, false},
		{"journal", func(v *view) { v.volumes[0].State.Store.JournalBytes++ }, false},
		{"term", func(v *view) { v.summary.State.Term++ }, true},
		{"attached", func(v *view) { v.volumes[0].Attach, v.volumes[0].State.Device = &fleet.Attachment{}, "/dev/loop0" }, true},
		{"grown", func(v *view) { v.volumes[0].SizeBytes = gib }, true},
		{"rewound", func(v *view) { v.summary.State.Rewind = &group.Rewind{} }, true},
		{"refused settings", func(v *view) { v.refused = errors.New("no") }, true},
		{"a copy begins", func(v *view) { v.summary.Sending.Volumes[0].ImageSizeBytes = 1 }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := sound()
			before := statusOf(v, &v1alpha1.ConsistencyGroupStatus{})
			tt.change(v)
			now := statusOf(v, &before)
			if got := isUrgent(&before, &now); got != tt.urgent {
				t.Errorf("urgent %t, want %t", got, tt.urgent)
			}
		})
	}
}

// A backing volume that fills up and has room again is told on the claim, and so is
// a window that is shorter for it, on the group.
func TestFullBackingIsTold(t *testing.T) {
	v := sound()
	empty := v1alpha1.ConsistencyGroupStatus{}
	before := statusOf(v, &empty)
	store := v.volumes[0].State.Store
	store.Space = journal.SpaceStats{ShortSince: testStart, Refused: 3, GivenUpBytes: 5 << 20}
	v.summary.Oldest = &group.Point{Checkpoint: 8, Time: testStart.Add(50 * time.Minute)}
	full := statusOf(v, &before)
	store.Space.ShortSince = time.Time{}
	v.summary.Oldest = &group.Point{Checkpoint: 8, Time: testStart}
	after := statusOf(v, &full)
	for _, step := range []struct {
		old, now       *v1alpha1.ConsistencyGroupStatus
		member, group  string
		reason, window string
	}{
		{&before, &full, "BackingFull", "WindowNotAchieved", reasonFull, "10m"},
		{&full, &after, "BackingHasRoom", "WindowAchieved", "", "1h"},
	} {
		if got := memberNews(step.old.Members, step.now.Members); len(got) != 1 || got[0].reason != step.member || got[0].text == "" {
			t.Errorf("events of the claim: %+v, want %s", got, step.member)
		}
		if got := newsOf(step.old, step.now); len(got) != 1 || got[0].reason != step.group {
			t.Errorf("events of the group: %+v, want %s", got, step.group)
		}
		if m := step.now.Members[0]; m.Reason != step.reason {
			t.Errorf("the member's reason is %q, want %q", m.Reason, step.reason)
		}
		if got := string(step.now.AchievedWindow); got != step.window {
			t.Errorf("the achieved window is %s, want %s", got, step.window)
		}
		if !isUrgent(step.old, step.now) {
			t.Error("nobody is told before the status is due")
		}
	}
}

// Damage is told once when it is found and once when it is gone, of the group and of
// the claim, and stays told while the engine is away.
func TestDamageIsTold(t *testing.T) {
	v := sound()
	at := statusOf(v, &v1alpha1.ConsistencyGroupStatus{})
	step := func(what string, change func(*control.StoreState), wantIntact string, wantNews ...string) {
		t.Helper()
		if change != nil {
			change(v.volumes[0].State.Store)
		}
		now := statusOf(v, &at)
		if c := meta.FindStatusCondition(now.Conditions, v1alpha1.GroupIntact); c == nil || string(c.Status) != wantIntact {
			t.Errorf("%s: condition is %+v, want %s", what, c, wantIntact)
		}
		var told []string
		for _, n := range append(newsOf(&at, &now), memberNews(at.Members, now.Members)...) {
			told = append(told, n.reason+" "+n.volume)
		}
		if !slices.Equal(told, wantNews) {
			t.Errorf("%s: told %q, want %q", what, told, wantNews)
		}
		if isUrgent(&at, &now) != (len(wantNews) > 0) {
			t.Errorf("%s: urgent %t", what, isUrgent(&at, &now))
		}
		at = now
	}
	volume := id(1).String()
	step("sound", nil, "True")
	step("damaged", func(s *control.StoreState) { s.Damaged, s.Damage = 2, "sector at offset 512 of base.img" }, "False", "Damaged ", "Damaged "+volume)
	if c := meta.FindStatusCondition(at.Conditions, v1alpha1.GroupIntact); !strings.Contains(c.Message, "base.img") || !strings.Contains(c.Message, "claim") {
		t.Errorf("message %q names neither place nor claim", c.Message)
	}
	step("more of it", func(s *control.StoreState) { s.Damaged, s.Unrepairable = 3, 1 }, "False")
	v.volumes[0].Connected = false
	step("engine away", func(s *control.StoreState) { s.Damaged = 0 }, "False")
	v.volumes[0].Connected = true
	step("repaired", func(s *control.StoreState) { *s = control.StoreState{Horizon: s.Horizon} }, "True", "DamageGone ", "DamageGone "+volume)
}
