package group_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

func cut(n int, members ...byte) journal.Checkpoint {
	c := journal.Checkpoint{Number: journal.CheckpointNumber(n), Time: time.Unix(int64(n)*10, 0), Position: journal.Position{Timeline: 1, Seq: journal.Seq(n)}}
	c.Group = "shop"
	for _, m := range members {
		c.Members = append(c.Members, journal.VolumeID{m})
	}
	return c
}

func TestPointsNeedEveryMemberOfTheirMoment(t *testing.T) {
	other := cut(4, 1, 2)
	other.Group = "other"
	later := cut(5, 1, 2)
	later.Time = later.Time.Add(time.Second)
	a := group.History{Volume: journal.VolumeID{1}, Checkpoints: []journal.Checkpoint{cut(1, 1), cut(2, 1, 2), cut(3, 1, 2), other, cut(5, 1, 2), cut(6, 1, 2, 3)}}
	b := group.History{Volume: journal.VolumeID{2}, Checkpoints: []journal.Checkpoint{cut(2, 1, 2), other, later, cut(6, 1, 2, 3)}}
	numbers := func(deleted func(journal.VolumeID, time.Time, bool) bool) (out []int) {
		for _, p := range group.Points("shop", []group.History{a, b}, deleted) {
			out = append(out, int(p.Checkpoint))
		}
		return out
	}
	// 1: before b joined. 2: both. 3: b lacks it. 4: another group's. 5: not
	// the same cut. 6: volume 3 is missing, or was deleted.
	if got := numbers(nobody); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("points %v, want 1 and 2", got)
	}
	third := func(id journal.VolumeID, _ time.Time, _ bool) bool { return id == journal.VolumeID{3} }
	if got := numbers(third); !slices.Equal(got, []int{1, 2, 6}) {
		t.Errorf("points %v after volume 3 was deleted, want 1, 2 and 6", got)
	}
}

// One of which a member has its part on a timeline that was left is told from the others,
// also where another member has stayed as it is.
func TestPointsThatWereLeft(t *testing.T) {
	a := group.History{Volume: journal.VolumeID{1}, Checkpoints: []journal.Checkpoint{cut(1, 1)}, Left: []journal.Checkpoint{cut(2, 1, 2), cut(3, 1, 2), cut(4, 1)}}
	b := group.History{Volume: journal.VolumeID{2}, Checkpoints: []journal.Checkpoint{cut(2, 1, 2)}}
	want := map[journal.CheckpointNumber]bool{1: false, 2: true, 4: true} // 3: b lacks it
	points := group.Points("shop", []group.History{a, b}, nobody)
	if len(points) != len(want) {
		t.Errorf("points are %+v", points)
	}
	for _, p := range points {
		if left, known := want[p.Checkpoint]; !known || p.Left != left {
			t.Errorf("point %+v, want it left: %v", p, left)
		}
	}
}

// A volume that was removed and is a member again has no part in what is pinned of before that; what is not pinned, or is of later, may have yet to arrive.
func TestPointsWithoutAVolumeThatIsBack(t *testing.T) {
	removed := cut(3).Time
	st := group.State{Members: []journal.VolumeID{{1}}}
	st.Remove(journal.VolumeID{2}, nil, removed)
	st.Members = append(st.Members, journal.VolumeID{2})
	st.AddDeleted(nil, nil)
	if len(st.Deleted) != 0 || !st.Removed[journal.VolumeID{2}].Equal(removed) {
		t.Fatalf("state %+v", st)
	}
	a := group.History{Volume: journal.VolumeID{1}, Checkpoints: []journal.Checkpoint{cut(1, 1, 2), cut(2, 1, 2), cut(4, 1, 2)},
		Pins: map[string]journal.Position{"snap": cut(2).Position, "later": cut(4).Position}}
	b := group.History{Volume: journal.VolumeID{2}}
	points := group.Points("shop", []group.History{a, b}, st.Lacks)
	if len(points) != 1 || points[0].Checkpoint != 2 || len(points[0].Members) != 1 {
		t.Errorf("points are %+v, want the one that is pinned of before", points)
	}
	b.Checkpoints = []journal.Checkpoint{cut(2, 1, 2)}
	if points := group.Points("shop", []group.History{a, b}, st.Lacks); len(points) != 1 || len(points[0].Members) != 2 {
		t.Errorf("points are %+v, want one of both that hold it", points)
	}
	st.AddDeleted(nil, func(journal.VolumeID) bool { return false })
	if len(st.Removed) != 0 {
		t.Errorf("kept of what nothing names: %v", st.Removed)
	}
}

// What volumes that could not be asked would make a point, if they hold their parts.
func TestPointsThatAreUndecided(t *testing.T) {
	a := group.History{Volume: journal.VolumeID{1}, Checkpoints: []journal.Checkpoint{cut(1, 1), cut(2, 1, 2), cut(3, 1, 3), cut(4, 1, 2, 4), cut(5, 1, 5)}}
	b := group.History{Volume: journal.VolumeID{2}, Checkpoints: []journal.Checkpoint{cut(2, 1, 2)}}
	c, d := group.History{Volume: journal.VolumeID{3}, Away: true}, group.History{Volume: journal.VolumeID{4}, Away: true}
	third := func(id journal.VolumeID, _ time.Time, _ bool) bool { return id == journal.VolumeID{3} }
	for _, tc := range []struct {
		members []group.History
		deleted func(journal.VolumeID, time.Time, bool) bool
		want    []int
	}{
		{[]group.History{a, b}, nobody, nil},            // all were asked
		{[]group.History{a, b, c, d}, nobody, []int{3}}, // 4 lacks b, which was asked, 5 one that nobody knows
		{[]group.History{a, b, c, d}, third, nil},       // 3 is a point without it
	} {
		var got []int
		for _, p := range group.Undecided("shop", tc.members, tc.deleted) {
			got = append(got, int(p.Checkpoint))
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("undecided %v, want %v", got, tc.want)
		}
	}
}

// TestANumberTakenTwice: volumes of an earlier group of the name are still
// there, with numbers that the present group takes again.
func TestANumberTakenTwice(t *testing.T) {
	again := cut(2, 2)
	again.Time = again.Time.Add(time.Hour)
	old := group.History{Volume: journal.VolumeID{1}, Checkpoints: []journal.Checkpoint{cut(1, 1), cut(2, 1)}}
	now := group.History{Volume: journal.VolumeID{2}, Checkpoints: []journal.Checkpoint{again}}
	points := group.Points("shop", []group.History{old, now}, nobody)
	if len(points) != 3 || !points[1].Time.Equal(cut(2).Time) || !points[2].Time.Equal(again.Time) || points[2].Members[now.Volume] != again.Position {
		t.Errorf("points %+v, want 1 and 2 of the old volume and 2 of the new one", points)
	}
}

func TestSelect(t *testing.T) {
	a := group.History{Volume: journal.VolumeID{1}, Checkpoints: []journal.Checkpoint{cut(1, 1), cut(2, 1), cut(5, 1)}, Pins: map[string]journal.Position{"nightly": {Timeline: 1, Seq: 2}}}
	points := group.Points("shop", []group.History{a}, nobody)
	tests := []struct {
		at   string
		want int // 0: no such point
		near []int
	}{
		{at: "latest", want: 5},
		{at: "2", want: 2},
		{at: "3", near: []int{2, 5}},
		{at: "9", near: []int{5}},
		{at: "0", near: []int{1}},
		{at: "pin:nightly", want: 2},
		{at: "pin:none"},
		{at: "1970-01-01T00:00:20Z", want: 2},
		{at: "1970-01-01T00:00:49.999Z", want: 2},
		{at: "1970-01-01T01:00:50+01:00", want: 5},
		{at: "2030-01-01T00:00:00Z", want: 5},
		{at: "1970-01-01T00:00:09Z", near: []int{1}},
	}
	for _, tt := range tests {
		p, err := group.Select("shop", points, tt.at)
		if tt.want > 0 {
			if err != nil || int(p.Checkpoint) != tt.want {
				t.Errorf("%s: checkpoint %d, %v, want %d", tt.at, p.Checkpoint, err, tt.want)
			}
			continue
		}
		var missing *group.NoPointError
		if !errors.As(err, &missing) || !errors.Is(err, group.ErrNoPoint) {
			t.Errorf("%s: %v, want a NoPointError", tt.at, err)
			continue
		}
		var near []int
		for _, n := range missing.Nearest {
			near = append(near, int(n.Checkpoint))
		}
		if !slices.Equal(near, tt.near) {
			t.Errorf("%s: nearest %v, want %v", tt.at, near, tt.near)
		}
	}
	for _, bad := range []string{"", "yesterday", "-1", "12:00", "pin"} {
		if _, err := group.Select("shop", points, bad); !errors.Is(err, group.ErrBadSelector) {
			t.Errorf("%q: %v, want ErrBadSelector", bad, err)
		}
	}
	// No point is near to a name: what helps are the names that there are.
	var noPin *group.NoPointError
	if _, err := group.Select("shop", points, "pin:nigthly"); !errors.As(err, &noPin) || !slices.Equal(noPin.Pins, []string{"nightly"}) {
		t.Errorf("a pin that is not there: %v, want it to name the pins that are", err)
	}
	if _, err := group.Select("shop", nil, "latest"); !errors.Is(err, group.ErrNoPoint) {
		t.Errorf("latest of none: %v", err)
	}
}

func TestOperationIsFinishedAfterAnyMemberFailed(t *testing.T) {
	for failing := range 3 {
		ms := newMembers(t, 3)
		c := newCoordinator(ms, settings())
		for i := range 3 {
			write(t, ms[i], 1)
		}
		to := takePoint(t, c)
		for i := range 3 {
			write(t, ms[i], 2)
		}
		from := takePoint(t, c)
		reg := newRegistry(t)
		if _, err := reg.Update("shop", func(s *group.State) error { s.Role, s.Term = group.RolePrimary, 1; return nil }); err != nil {
			t.Fatal(err)
		}
		op := group.Operation{ID: "x", Kind: group.OperationRewind, Targets: to.Positions, Role: group.RolePrimary, Term: 1,
			Rewind: &group.Rewind{ID: "x", Back: from.Positions}}
		if err := reg.Begin("shop", op, nil); err != nil {
			t.Fatal(err)
		}
		ms[failing].failFork = errMember
		if _, err := reg.Finish(context.Background(), "shop", asForkers(ms)); !errors.Is(err, errMember) {
			t.Fatalf("finish: %v, want the member's error", err)
		}
		if err := reg.Begin("shop", group.Operation{ID: "y"}, nil); !errors.Is(err, group.ErrBusy) {
			t.Errorf("another operation: %v, want ErrBusy", err)
		}
		ms[failing].failFork = nil
		st, err := reg.Finish(context.Background(), "shop", asForkers(ms))
		if err != nil || st.Pending != nil || st.Rewind == nil {
			t.Fatalf("finish again: %+v, %v", st, err)
		}
		for _, m := range ms {
			lines := m.Store().Timelines()
			if forks := len(lines) - 1; forks != 1 {
				t.Errorf("%d forks, want each member to fork once", forks)
			}
			expect(t, m, 1)
			if _, ok := m.Store().Pins()["rewind:x"]; !ok {
				t.Error("the way back is not pinned")
			}
		}
		undo := group.Operation{ID: "z", Kind: group.OperationUndo, Targets: st.Rewind.Back, Role: group.RolePrimary, Term: 1}
		if err := reg.Begin("shop", undo, nil); err != nil {
			t.Fatal(err)
		}
		if st, err = reg.Finish(context.Background(), "shop", asForkers(ms)); err != nil || st.Rewind != nil {
			t.Fatalf("undo: %+v, %v", st, err)
		}
		for _, m := range ms {
			expect(t, m, 2)
			if n := len(m.Store().Pins()); n != 0 {
				t.Errorf("%d pins left after undo", n)
			}
		}
	}
}

func takePoint(t *testing.T, c *group.Coordinator) group.Taken {
	t.Helper()
	taken, err := c.Take(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return taken
}

func expect(t *testing.T, m *member, want byte) {
	t.Helper()
	p := make([]byte, 512)
	if err := m.ReadAt(context.Background(), p, 0); err != nil {
		t.Fatal(err)
	}
	if p[0] != want {
		t.Errorf("volume %s holds %d, want %d", m.Volume(), p[0], want)
	}
}
