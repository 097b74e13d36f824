package journal

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
)

// keptRig is a replica's store, nearly: a journal with a budget that is small beside the
// disk, fed and maintained, with a point that is kept.
type keptRig struct {
	*fullRig
	kept Checkpoint
}

const (
	keptBudget = 4 * MinSegmentBytes
	keptHot    = 2 * MinSegmentBytes // bytes of the volume that are written
)

// newKeptRig makes one on a disk of so many segments, and keeps the point at which all is 1.
func newKeptRig(t *testing.T, segments int64) *keptRig {
	t.Helper()
	r := &keptRig{fullRig: newFullRig(t, segments, func(cfg *Config) { cfg.JournalBytes = keptBudget })}
	r.mustWrite(3, keptHot, 1)
	r.keepNewest()
	return r
}

// keepNewest takes a point and keeps it.
func (r *keptRig) keepNewest() {
	r.t.Helper()
	if err := errors.Join(r.checkpoint(), r.s.Flush(context.Background())); err != nil {
		r.t.Fatal(err)
	}
	r.kept = r.s.NewestCheckpoint()
	r.s.KeepPoint(r.kept.Position, 0)
}

// feed writes and maintains, a segment at a time.
func (r *keptRig) feed(segments int, b byte) {
	r.t.Helper()
	for range segments {
		r.mustWrite(1, keptHot, b)
		r.maintainNow()
	}
}

func (r *keptRig) maintainNow() {
	r.t.Helper()
	if err := errors.Join(r.s.Flush(context.Background()), r.s.Maintain(context.Background())); err != nil {
		r.t.Fatal(err)
	}
}

// isKept reports whether the point can still be had.
func (r *keptRig) isKept() bool {
	return len(r.s.CheckpointsIn(r.kept.Group, r.kept.Number, r.kept.Number)) == 1
}

// neverShort makes sure that nobody has felt anything.
func (r *keptRig) neverShort() {
	r.t.Helper()
	if st := r.s.Stats().Space; st.IsShort() || st.Refused > 0 || st.GivenUpBytes > 0 {
		r.t.Errorf("the store was short of room: %+v", st)
	}
}

func TestAPointIsKeptBeyondTheBudgetWhileThereIsRoom(t *testing.T) {
	r := newKeptRig(t, 200)
	r.s.SetRetention(Retention{JournalBytes: keptBudget, Window: 10 * time.Second})
	r.feed(60, 2)
	r.hasKept(r.kept)
	r.neverShort()
	if st := r.s.Stats(); st.JournalBytes < 10*keptBudget || st.Space.PointsGivenUp != 0 {
		t.Errorf("the journal has %d bytes and %d points were given up, want it all to be there", st.JournalBytes, st.Space.PointsGivenUp)
	}
	r.s.KeepPoint(Position{}, 0)
	r.maintainNow()
	r.s.KeepPoint(r.kept.Position, 0)
	if at := r.s.KeptPoint(); at != (Position{}) {
		t.Errorf("%s is kept, and is gone", at)
	}
	if st := r.s.Stats(); st.JournalBytes > 2*keptBudget || st.Space.PointsGivenUp != 0 {
		t.Errorf("let go of: the journal has %d bytes, and %d points count as given up", st.JournalBytes, st.Space.PointsGivenUp)
	}
	mustClose(t, r.s)
}

// With the disk nearly full the point goes, before anybody feels anything; then the
// journal is as large as it should be, and a newer point is kept in the same way.
func TestAPointGivesWayBeforeTheDiskIsFull(t *testing.T) {
	r := newKeptRig(t, 64)
	for round := uint64(1); round <= 3; round++ {
		for n := 0; r.s.KeptPoint() != (Position{}); n++ {
			if n == 100 {
				t.Fatalf("round %d: a point is kept on a disk that has no room for it", round)
			}
			r.feed(1, byte(round))
		}
		st := r.s.Stats()
		if r.isKept() || st.Space.PointsGivenUp != round {
			t.Errorf("round %d: %d points were given up, this one is there: %v", round, st.Space.PointsGivenUp, r.isKept())
		}
		if st.JournalBytes > keptBudget+2*MinSegmentBytes {
			t.Errorf("round %d: the journal has %d bytes behind it, of a budget of %d", round, st.JournalBytes, keptBudget)
		}
		if n := r.lines.count("what was kept for the newest recovery point"); n != int(round) {
			t.Errorf("round %d: it was said %d times", round, n)
		}
		r.s.KeepPoint(r.kept.Position, 0) // whoever does not know yet
		if at := r.s.KeptPoint(); at != (Position{}) {
			t.Errorf("round %d: what was given up is kept again, at %s", round, at)
		}
		r.feed(20, byte(round))
		r.keepNewest()
		r.feed(2, byte(round))
		if !r.isKept() {
			t.Errorf("round %d: the next point is not kept", round)
		}
	}
	r.neverShort()
	mustClose(t, r.s)
}

// A point gives way also where nobody maintains the store but whoever finds no room.
func TestAPointGivesWayToWrites(t *testing.T) {
	r := newKeptRig(t, 24)
	r.mustWrite(100, keptHot, 2)
	if st := r.s.Stats().Space; st.PointsGivenUp != 1 || st.Refused == 0 {
		t.Errorf("want one point given up for appends that found no room: %+v", st)
	}
	mustClose(t, r.s)
}

// Older history goes before the point, although it is within the budget.
func TestOlderHistoryGoesBeforeThePoint(t *testing.T) {
	r := newFullRig(t, 40, nil)
	k := &keptRig{fullRig: r}
	r.mustWrite(20, keptHot, 1)
	k.keepNewest()
	from := r.s.Horizon()
	for r.s.Horizon() == from {
		k.feed(1, 2)
	}
	if !k.isKept() || r.s.Stats().Space.PointsGivenUp != 0 {
		t.Error("the point went before what is older")
	}
	k.feed(60, 2)
	if k.isKept() || r.s.Stats().Space.PointsGivenUp != 1 {
		t.Error("the point did not go when nothing older was left")
	}
	mustClose(t, r.s)
}

// What a reader has yet to read goes after the point.
func TestAPointGoesBeforeWhatIsRead(t *testing.T) {
	r := newKeptRig(t, 40)
	r.s.SetRetention(Retention{})
	r.mustWrite(2, keptHot, 1)
	if err := r.s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	reader, err := r.s.Records(r.s.Durable())
	if err != nil {
		t.Fatal(err)
	}
	for r.s.Stats().Space.PointsGivenUp == 0 {
		r.feed(1, 2)
	}
	if _, err := reader.Next(context.Background()); err != nil {
		t.Errorf("a reader lost its place before the point went: %v", err)
	}
	reader.Close()
	mustClose(t, r.s)
}

// A reader that stands before the point, and is in the way as well: both go.
func TestAPointBehindAReaderGivesWayToWrites(t *testing.T) {
	r := newFullRig(t, 24, nil)
	k := &keptRig{fullRig: r}
	r.mustWrite(2, keptHot, 1)
	if err := r.s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	reader, err := r.s.Records(r.s.Durable())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	k.keepNewest()
	r.mustWrite(100, keptHot, 2)
	if n := r.s.Stats().Space.PointsGivenUp; n != 1 {
		t.Errorf("%d points were given up", n)
	}
	reader.Close()
	mustClose(t, r.s)
}

// A point behind a pin is not given up in vain: the pin stays, and so does what is behind.
func TestAPointIsNotGivenUpInVain(t *testing.T) {
	r := newFullRig(t, 24, func(cfg *Config) { cfg.JournalBytes = keptBudget })
	k := &keptRig{fullRig: r}
	r.mustWrite(2, testVolumeBytes/4, 1)
	if err := r.s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := r.s.Pin("kept", r.s.Tip()); err != nil {
		t.Fatal(err)
	}
	k.keepNewest()
	r.hours(60, 2)
	st := r.s.Stats().Space
	if st.Refused == 0 {
		t.Fatal("the pin did not fill the disk")
	}
	if !k.isKept() || st.PointsGivenUp != 0 {
		t.Errorf("the point was given up for nothing: %+v", st)
	}
	mustClose(t, r.s)
}

// A disk that somebody else fills is no reason to give the point up, as long as the store
// needs no more of it: a whole image of this volume may be what fills it.
func TestAPointStaysWhileNothingIsWritten(t *testing.T) {
	r := newKeptRig(t, 200)
	r.feed(30, 2)
	ballast := r.fillOutside()
	r.rest()
	if err := errors.Join(ballast.Truncate(0), r.mem.Remove("ballast")); err != nil {
		t.Fatal(err)
	}
	r.feed(4, 2)
	r.hasKept(r.kept)
	r.neverShort()

	mustClose(t, r.s)
	r.s = mustOpen(t, r.cfg)
	r.s.giveUpReserve() // so that there is no segment ready, nor room for one
	r.fillOutside()
	r.s.KeepPoint(r.kept.Position, 0)
	r.rest()
	if !r.s.Stats().Space.IsShort() {
		t.Fatal("the disk is not full")
	}
	r.mustWrite(20, keptHot, 3)
	if n := r.s.Stats().Space.PointsGivenUp; r.isKept() || n != 1 {
		t.Errorf("%d points were given up for what is written", n)
	}
	mustClose(t, r.s)
}

// rest maintains for a while in which nobody writes, and the point stays.
func (r *keptRig) rest() {
	r.t.Helper()
	for range 20 {
		r.clock.Advance(time.Minute)
		if err := r.s.Maintain(context.Background()); err != nil && !errors.Is(err, ErrFull) {
			r.t.Fatal(err)
		}
	}
	r.hasKept(r.kept)
}

// A journal of its own watches its own file system.
func TestAPointInAJournalOfItsOwnGivesWay(t *testing.T) {
	r := newFullRig(t, 64, func(cfg *Config) { cfg.JournalBytes, cfg.JournalDir = keptBudget, worldJournalDir })
	k := &keptRig{fullRig: r}
	r.mustWrite(3, keptHot, 1)
	k.keepNewest()
	k.feed(20, 2)
	r.hasKept(k.kept)
	k.feed(60, 2)
	if st := r.s.Stats().Space; k.isKept() || st.PointsGivenUp != 1 || st.Refused > 0 {
		t.Errorf("the point did not give way: %+v", st)
	}
	mustClose(t, r.s)
}

// A leap that finds no room gives what it took back, so that there is room again when
// somebody looks. It is begun anew by whoever sends it, and then there is room.
func TestAPointGivesWayToALeap(t *testing.T) {
	r := newKeptRig(t, 64)
	r.feed(20, 2)
	leap := func() error {
		tip := r.s.Tip()
		if err := r.s.BeginLeap(time.Minute); err != nil {
			return err
		}
		p := make([]byte, 64<<10)
		for i := range 40 * MinSegmentBytes / len(p) {
			rec := Record{Position: Position{tip.Timeline, tip.Seq + 1 + Seq(2*i)}, Kind: KindWrite, Length: int64(len(p)), Payload: p, PayloadCRC: PayloadChecksum(p)}
			if err := r.s.AppendLeap([]Record{rec}); err != nil {
				return err
			}
		}
		return nil
	}
	if err := leap(); !errors.Is(err, ErrFull) {
		t.Fatalf("the leap: %v, want ErrFull", err)
	}
	if !r.isKept() {
		t.Fatal("the point was given up before there was a need")
	}
	r.maintainNow()
	if err := leap(); err != nil {
		t.Errorf("the leap finds no room: %v", err)
	}
	if n := r.s.Stats().Space.PointsGivenUp; r.isKept() || n != 1 {
		t.Errorf("%d points were given up", n)
	}
	mustClose(t, r.s)
}

// askedClock calls asked whenever it is asked for the time.
type askedClock struct {
	clock.Clock
	asked func()
}

func (c *askedClock) Now() time.Time {
	c.asked()
	return c.Clock.Now()
}

// TestAPointThatIsKeptMeanwhileStays: what was looked at is given up, and not a newer one
// in its place, behind which all that is due can go.
func TestAPointThatIsKeptMeanwhileStays(t *testing.T) {
	r := newKeptRig(t, 64)
	var newer Position
	r.s.cfg.Clock = &askedClock{r.clock, func() {
		if r.s.yielding && newer == (Position{}) { // between the look and what comes of it
			newer = r.s.durable
			r.s.KeepPoint(newer, 0)
		}
	}}
	for n := 0; newer == (Position{}); n++ {
		if n == 100 {
			t.Fatal("the point was never in the way")
		}
		r.feed(1, 2)
		if err := errors.Join(r.checkpoint(), r.s.Flush(context.Background())); err != nil {
			t.Fatal(err)
		}
	}
	if at, st := r.s.KeptPoint(), r.s.Stats(); at != newer || st.Space.PointsGivenUp != 0 {
		t.Errorf("%s is kept, want %s, and %d points were given up", at, newer, st.Space.PointsGivenUp)
	}
	mustClose(t, r.s)
}
