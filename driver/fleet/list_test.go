package fleet_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"

	enginev1 "github.com/lockstep-csi/lockstep/api/engine/v1"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/group"
)

// expectList compares what is listed with the points themselves.
func expectList(t *testing.T, f *fleet.Fleet, name string, from, to time.Time, limit int) {
	t.Helper()
	points, err := f.Groups().Points(bounded(t), name)
	if err != nil {
		t.Fatal(err)
	}
	points = slices.DeleteFunc(points, func(p group.Point) bool {
		return !from.IsZero() && p.Time.Before(from) || !to.IsZero() && p.Time.After(to)
	})
	got, total, err := f.Groups().ListPoints(bounded(t), name, from, to, limit)
	if err != nil || total != len(points) || len(got) != min(limit, len(points)) {
		t.Fatalf("listed %d of %d points, want %d of %d: %v", len(got), total, min(limit, len(points)), len(points), err)
	}
	slices.Reverse(points)
	for i, p := range got {
		want := points[i]
		if p.Checkpoint != want.Checkpoint || !p.Time.Equal(want.Time) || p.ValidUntil.Before(want.Time) || !slices.Equal(p.Pins, want.Pins) || p.Members != len(want.Members) {
			t.Errorf("listed %+v, want %+v", p, want)
		}
	}
}

// What members send in outlines makes the list that their histories make, with
// pins and without, of a group whose members come and go.
func TestAListIsThePoints(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer func() { closeFleet(t, f) }()
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	for range 20 {
		takePoint(t, f, "shop")
	}
	mustPin(t, f, "shop", "early")
	mustCreate(t, f, newVolume(2, "shop"))
	mustAttach(t, f, 2, "node1")
	for range 20 {
		write(t, c.device(id(2)), 1)
		takePoint(t, f, "shop")
	}
	mustPin(t, f, "shop", "late")
	awaitPins(t, f, "shop", "early", "late")
	points, err := f.Groups().Points(bounded(t), "shop")
	if err != nil {
		t.Fatal(err)
	}
	var none time.Time
	expectList(t, f, "shop", none, none, 1000)
	expectList(t, f, "shop", none, none, 7)
	expectList(t, f, "shop", points[5].Time, points[25].Time, 10)
	expectList(t, f, "shop", points[len(points)-1].Time.Add(time.Hour), none, 10)
	mustMove(t, f, 1, "bank")
	takePoint(t, f, "shop")
	expectList(t, f, "shop", none, none, 1000)
	expectList(t, f, "bank", none, none, 1000)
}

// A pin that only some members have keeps its point, which all of them hold.
func TestAPinThatWasInterruptedIsListed(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer func() { closeFleet(t, f) }()
	for n := byte(1); n <= 2; n++ {
		mustCreate(t, f, newVolume(n, "shop"))
		mustAttach(t, f, n, "node1")
	}
	mustPin(t, f, "shop", "half")
	awaitPins(t, f, "shop", "half")
	unlock, err := f.Groups().LockPin(bounded(t), "half")
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	eng, err := c.engines[id(2)].pod.Engine()
	c.mu.Unlock()
	if err == nil {
		err = eng.Store().Unpin("half")
	}
	unlock()
	if err != nil {
		t.Fatal(err)
	}
	write(t, c.device(id(2)), 1) // so that there is a checkpoint, and the engine tells of itself
	until(t, "one member to be without it", func() bool {
		v, err := f.Volume(id(2))
		return err == nil && v.State.Store != nil && len(v.State.Store.Pins) == 0
	})
	expectList(t, f, "shop", time.Time{}, time.Time{}, 1000)
	pinned, err := f.Groups().PinnedPoints(bounded(t), "shop")
	if err != nil || len(pinned) != 1 || !slices.Equal(pinned[0].Pins, []string{"half"}) || len(pinned[0].Members) != 2 {
		t.Errorf("pinned are %+v, %v", pinned, err)
	}
}

func mustPin(t *testing.T, f *fleet.Fleet, name, pin string) {
	t.Helper()
	if _, _, err := f.Groups().TakePoint(bounded(t), name, pin); err != nil {
		t.Fatal(err)
	}
}

// awaitPins waits until the engines have told of pins.
func awaitPins(t *testing.T, f *fleet.Fleet, name string, pins ...string) {
	t.Helper()
	until(t, "the engines to tell of their pins", func() bool {
		points, err := f.Groups().PinnedPoints(bounded(t), name)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range points {
			got = append(got, p.Pins...)
		}
		return slices.Equal(got, pins)
	})
}

// countCheckpoints is a stream interceptor of the engines.
func (c *cluster) countCheckpoints(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	c.mu.Lock()
	copying := c.copying
	c.mu.Unlock()
	if copying != nil && info.FullMethod == enginev1.Engine_ReadImage_FullMethodName {
		if err := copying(stream.Context()); err != nil {
			return err
		}
	}
	return handler(srv, countedStream{stream, c})
}

type countedStream struct {
	grpc.ServerStream
	c *cluster
}

func (s countedStream) SendMsg(m any) error {
	if sent, ok := m.(*enginev1.CheckpointsResponse); ok {
		s.c.listed.Add(int64(len(sent.GetCheckpoints())))
	}
	return s.ServerStream.SendMsg(m)
}

// What describes a group, lists its points or takes a snapshot does not have the
// engines send their whole histories, which may have a hundred thousand
// checkpoints.
func TestWhatIsAskedOftenIsSmall(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer func() { closeFleet(t, f) }()
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	mustPin(t, f, "shop", "first")
	for range 400 {
		takePoint(t, f, "shop")
	}
	awaitPins(t, f, "shop", "first")
	points, err := f.Groups().Points(bounded(t), "shop")
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the engine to tell of its newest checkpoint", func() bool {
		v, err := f.Volume(id(1))
		return err == nil && v.State.Store != nil && v.State.Store.Newest.Number == points[len(points)-1].Checkpoint
	})
	for _, step := range []struct {
		name string
		most int64
		do   func() error
	}{
		{"a description", 2*65 + 1, func() error {
			s, err := f.Groups().Summary(bounded(t), "shop")
			if err == nil && (s.Newest == nil || s.Oldest == nil) {
				t.Errorf("it has no ends: %+v", s)
			}
			if err == nil {
				_, err = f.Groups().PinnedPoints(bounded(t), "shop")
			}
			return err
		}},
		{"a list", 1, func() error {
			_, total, err := f.Groups().ListPoints(bounded(t), "shop", time.Time{}, time.Time{}, 10)
			if total < 400 {
				t.Errorf("of %d points", total)
			}
			return err
		}},
		{"a snapshot", 0, func() error {
			_, _, err := f.Groups().TakePoint(bounded(t), "shop", "second")
			return err
		}},
	} {
		before := c.listed.Load()
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got := c.listed.Load() - before; got > step.most {
			t.Errorf("%s had %d checkpoints sent, want %d at most", step.name, got, step.most)
		}
	}
}

// What is selected from outlines is what is selected from the points.
func TestASelectionIsFromThePoints(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer func() { closeFleet(t, f) }()
	for n := byte(1); n <= 2; n++ {
		mustCreate(t, f, newVolume(n, "shop"))
		mustAttach(t, f, n, "node1")
	}
	for range 80 {
		write(t, c.device(id(1)), 1)
		takePoint(t, f, "shop")
	}
	mustPin(t, f, "shop", "kept")
	awaitPins(t, f, "shop", "kept")
	points, err := f.Groups().Points(bounded(t), "shop")
	if err != nil {
		t.Fatal(err)
	}
	middle := points[len(points)/2]
	before := c.listed.Load()
	selections := []string{"pin:kept", "pin:none", fmt.Sprint(middle.Checkpoint), "1000000", "yesterday",
		middle.Time.Format(time.RFC3339Nano), middle.Time.Add(1).Format(time.RFC3339Nano), points[0].Time.Add(-time.Hour).Format(time.RFC3339Nano)}
	for _, at := range selections {
		want, wantErr := group.Select("shop", points, at)
		got, err := f.Groups().Select(bounded(t), "shop", at)
		if got.Checkpoint != want.Checkpoint || !got.Time.Equal(want.Time) || !maps.Equal(got.Members, want.Members) || !slices.Equal(got.Pins, want.Pins) {
			t.Errorf("%s: selected %+v, want %+v", at, got, want)
		}
		if (err == nil) != (wantErr == nil) || errors.Is(wantErr, group.ErrNoPoint) != errors.Is(err, group.ErrNoPoint) || errors.Is(wantErr, group.ErrBadSelector) != errors.Is(err, group.ErrBadSelector) {
			t.Errorf("%s: %v, want %v", at, err, wantErr)
		}
	}
	// Two members send the one checkpoint of a selection, and the pinned one.
	if sent := c.listed.Load() - before; sent > int64(2*2*len(selections)) {
		t.Errorf("%d checkpoints were sent in full for %d selections", sent, len(selections))
	}
	if latest, err := f.Groups().Select(bounded(t), "shop", "latest"); err != nil || latest.Checkpoint < points[len(points)-1].Checkpoint || len(latest.Members) != 2 {
		t.Errorf("the latest is %+v, %v", latest, err)
	}
	if _, err := f.Groups().Select(bounded(t), "nothing", "latest"); !errors.Is(err, group.ErrNotFound) {
		t.Errorf("of a group that is not there: %v", err)
	}
}
