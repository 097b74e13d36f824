package site_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// agingStep is the time between two points of an aging site, which makes agingPoints.
// Its group keeps all for agingTier, and then the first of each hour.
const (
	agingStep    = 10 * time.Minute
	agingPoints  = 20
	agingHistory = "30m:4h,1h:7d"
	agingTier    = 4 * time.Hour
	agingWindow  = 7 * 24 * time.Hour
)

// aging is a site with a clock of its own, whose points grow older than their tier.
type aging struct {
	*opened
	t      *testing.T
	clock  *clock.Manual
	points []group.Point // each of which holds its index and one
	passed int           // further points, of pass
}

// newAging makes it with n points.
func newAging(t *testing.T, fs vfs.FS, n int) *aging {
	t.Helper()
	a := &aging{t: t, clock: clock.NewManual(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))}
	a.opened = openAt(t, fs, a.clock)
	settings := group.Settings{CheckpointInterval: 24 * time.Hour, BarrierTimeout: 5 * time.Second, History: agingHistory, Window: agingWindow}.WithDefaults()
	for _, id := range members {
		if err := a.CreateVolume(context.Background(), site.NewVolume{ID: id, Name: id.String(), SizeBytes: volumeBytes, Group: "shop", Settings: settings}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { mustClose(t, a.opened) })
	for range n {
		a.step(volumeA, volumeB)
	}
	return a
}

// step writes more than a segment to those who are busy, and takes a point.
func (a *aging) step(busy ...journal.VolumeID) {
	a.t.Helper()
	value := byte(len(a.points) + 1)
	for _, id := range busy {
		for i := range int64(5) {
			if err := a.exports.device(id).WriteAt(context.Background(), bytes.Repeat([]byte{value}, 1<<20), i<<20, true); err != nil {
				a.t.Fatal(err)
			}
		}
	}
	if err := a.fill(value); err != nil {
		a.t.Fatal(err)
	}
	p, _, err := a.Groups().TakePoint(context.Background(), "shop", "")
	if err != nil {
		a.t.Fatal(err)
	}
	a.points = append(a.points, p)
	a.clock.Advance(agingStep)
}

// pass has time pass, with points in it, because it counts as an hour without any.
func (a *aging) pass(d time.Duration) {
	a.t.Helper()
	for ; d > agingStep; d -= agingStep {
		a.clock.Advance(agingStep)
		if _, _, err := a.Groups().TakePoint(context.Background(), "shop", ""); err != nil {
			a.t.Fatal(err)
		}
		a.passed++
	}
	a.clock.Advance(d)
}

// leaves has time pass until a point has been older than its tier for so long.
func (a *aging) leaves(p group.Point, ago time.Duration) {
	a.t.Helper()
	a.pass(p.Time.Add(agingTier + ago).Sub(a.clock.Now()))
	if a.lists(p) {
		a.t.Fatalf("point %d is listed %v behind its tier", p.Checkpoint, ago)
	}
}

func (a *aging) lists(p group.Point) bool {
	a.t.Helper()
	points, err := a.Groups().Points(context.Background(), "shop")
	if err != nil {
		a.t.Fatal(err)
	}
	return slices.ContainsFunc(points, func(q group.Point) bool { return q.Checkpoint == p.Checkpoint })
}

func (a *aging) store(id journal.VolumeID) *journal.Store {
	return a.exports.device(id).(*engine.Guarded).Device.(*engine.Engine).Store()
}

// longestRest is that of thinning which goes on in the background, and which the caller of
// thin waits for.
const longestRest = 250 * time.Millisecond

// thin drops what is due of a member.
func (a *aging) thin(id journal.VolumeID) {
	a.t.Helper()
	done := make(chan error, 1)
	go func() { done <- a.store(id).Maintain(context.Background()) }()
	for {
		select {
		case err := <-done:
			if err != nil {
				a.t.Fatal(err)
			}
			return
		default:
			if next, ok := a.clock.Next(); ok && next <= longestRest {
				a.clock.Advance(next)
			}
			runtime.Gosched()
		}
	}
}

// checkOpens opens a point by what selects it, and reads it.
func (a *aging) checkOpens(at string, want int) {
	a.t.Helper()
	v, err := a.OpenView(context.Background(), "shop", at)
	if err != nil {
		a.t.Errorf("open %s: %v", at, err)
		return
	}
	for _, id := range members {
		dev, err := a.ViewDevice(v.ID, id)
		if err != nil {
			a.t.Fatal(err)
		}
		p := make([]byte, 512)
		if err := dev.ReadAt(context.Background(), p, 0); err != nil || p[0] != byte(want) {
			a.t.Errorf("at %s volume %s holds %d, %v; want %d", at, id, p[0], err, want)
		}
	}
	if err := a.CloseView(v.ID); err != nil {
		a.t.Fatal(err)
	}
}

func number(p group.Point) string { return fmt.Sprint(p.Checkpoint) }

// A point that has left its tier can be chosen for as long as all members have it
// whole: by its number, and by a time.
func TestAPointOutlivesItsTier(t *testing.T) {
	a := newAging(t, vfs.NewMem(), agingPoints)
	p := a.points[3]
	a.leaves(p, 30*time.Second)
	a.thin(volumeA)
	a.thin(volumeB)
	a.checkOpens(number(p), 4)
	a.checkOpens(p.Time.Format(time.RFC3339Nano), 4)
	a.checkOpens(p.Time.Add(time.Minute).Format(time.RFC3339Nano), 4)
}

// What one of the members has dropped is no point any more, although the others have
// it. The error names the points around it, and these open.
func TestAPointThatAMemberHasDroppedIsRefused(t *testing.T) {
	a := newAging(t, vfs.NewMem(), 0)
	for range agingPoints {
		a.step(volumeA) // the other one writes too little to thin
	}
	p := a.points[3]
	a.leaves(a.points[13], time.Minute)
	a.thin(volumeA)
	a.thin(volumeB)
	if a.store(volumeA).Stats().Thinning.Rewrites == 0 || a.store(volumeB).Stats().Thinning.Rewrites != 0 {
		t.Fatal("want one member thinned and the other not")
	}
	_, viewErr := a.OpenView(context.Background(), "shop", number(p))
	_, rewindErr := a.Groups().StartRewind(context.Background(), "shop", number(p), false)
	_, pinErr := a.Groups().PinPoint(context.Background(), "shop", "late", number(p))
	for what, err := range map[string]error{"view": viewErr, "rewind": rewindErr, "pin": pinErr} {
		var missing *group.NoPointError
		if !errors.As(err, &missing) || len(missing.Nearest) != 2 {
			t.Fatalf("%s: %v, want a NoPointError that names two points", what, err)
		}
		if before, after := missing.Nearest[0], missing.Nearest[1]; before.Checkpoint >= p.Checkpoint || after.Checkpoint <= p.Checkpoint || !a.lists(before) || !a.lists(after) {
			t.Errorf("%s: the nearest are %d and %d", what, before.Checkpoint, after.Checkpoint)
		}
		a.checkOpens(number(missing.Nearest[0]), int(missing.Nearest[0].Checkpoint))
		a.checkOpens(number(missing.Nearest[1]), int(missing.Nearest[1].Checkpoint))
	}
	// A time means the newest that is left.
	a.checkOpens(p.Time.Format(time.RFC3339Nano), int(a.points[0].Checkpoint))
	a.expect(t, agingPoints)
	for _, id := range members {
		if pins := a.store(id).Pins(); len(pins) != 0 {
			t.Errorf("volume %s has pins %v", id, pins)
		}
	}
}

// What is held outlives its tier for as long as it is held.
func TestAHeldPointIsNotThinned(t *testing.T) {
	a := newAging(t, vfs.NewMem(), agingPoints)
	p, other := a.points[7], a.points[8]
	a.leaves(p, 30*time.Second)
	held, release, err := a.Groups().Hold(context.Background(), "shop", number(p), "")
	if err != nil || held.Checkpoint != p.Checkpoint {
		t.Fatalf("hold %d: %d, %v", p.Checkpoint, held.Checkpoint, err)
	}
	a.pass(55 * time.Minute) // nobody holds for more than an hour
	a.thin(volumeA)
	a.thin(volumeB)
	if _, err := a.OpenView(context.Background(), "shop", number(other)); !errors.Is(err, group.ErrNoPoint) {
		t.Errorf("what nobody holds: %v, want ErrNoPoint", err)
	}
	a.checkOpens(number(p), 8)
	release()
	for _, id := range members {
		if n := a.views(id); n != 0 {
			t.Errorf("volume %s is held by %d", id, n)
		}
	}
}

// views is how many views and holds a member has.
func (a *aging) views(id journal.VolumeID) (n int) {
	for _, u := range a.store(id).TimelineUses() {
		n += u.Views
	}
	return n
}

// An operation holds its point from when it was chosen until the members have
// forked: hours and a thinning pass between these do not matter.
func TestAnOperationHoldsItsPoint(t *testing.T) {
	fs := &slowDB{FS: vfs.NewMem()}
	a := newAging(t, fs, agingPoints)
	p := a.points[7]
	a.leaves(p, 30*time.Second)
	began := 0
	fs.before = func() { // each time that the site writes something down
		began++
		a.clock.Advance(2 * time.Hour)
		a.thin(volumeA)
		a.thin(volumeB)
	}
	_, err := a.Groups().StartRewind(context.Background(), "shop", number(p), false)
	fs.before = nil
	if err != nil || began == 0 {
		t.Fatalf("rewind with %d writes of the site in it: %v", began, err)
	}
	a.expect(t, 8)
	if n := a.store(volumeA).Stats().Thinning.Rewrites; n == 0 {
		t.Error("nothing was thinned meanwhile")
	}
	for _, id := range members {
		if n := a.views(id); n != 0 {
			t.Errorf("volume %s is held by %d", id, n)
		}
	}
}

// slowDB calls before, unless it is nil, before each change of the site's database.
type slowDB struct {
	vfs.FS
	before func()
}

func (s *slowDB) OpenDB(name string) (kv.DB, error) {
	db, err := s.FS.OpenDB(name)
	if err == nil && name == "/root/site.db" {
		db = slowUpdates{db, s}
	}
	return db, err
}

type slowUpdates struct {
	kv.DB
	fs *slowDB
}

func (s slowUpdates) Update(fn func(kv.Tx) error) error {
	if s.fs.before != nil {
		s.fs.before()
	}
	return s.DB.Update(fn)
}
