package journal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// A replica that was away while history was thinned catches up over it: with
// less than was written, with every point that the source has kept, and with those that it
// had before.
func TestLeapOverThinnedHistory(t *testing.T) {
	for name, records := range map[string]int{"from point to point": 1, "all at once": 1 << 30} {
		t.Run(name, func(t *testing.T) {
			r := newLeapRig(t, manualClock(), nil)
			r.seconds(6)
			if err := r.follow(); err != nil {
				t.Fatal(err)
			}
			stood, had := r.replica.Tip(), r.replica.Checkpoints()
			r.bytes = 0
			r.away(120)
			if _, err := r.s.Records(stood); !errors.Is(err, ErrThinned) || !errors.Is(err, ErrHorizon) {
				t.Fatalf("records behind %s: %v, want ErrThinned", stood, err)
			}
			leaps, err := r.catchUp(records)
			if err != nil || leaps == 0 {
				t.Fatalf("%d leaps, then %v", leaps, err)
			}
			if r.replica.Tip() != r.s.Tip() {
				t.Fatalf("the replica stands at %s, the source at %s", r.replica.Tip(), r.s.Tip())
			}
			r.checkReplica()
			same := slices.EqualFunc(r.s.Checkpoints(), r.replica.Checkpoints(), func(a, b Checkpoint) bool { return a.Number == b.Number })
			if !same {
				t.Errorf("the source lists %d checkpoints, the replica %d", len(r.s.Checkpoints()), len(r.replica.Checkpoints()))
			}
			if v, err := r.replica.View(had[len(had)-1].Position); err != nil {
				t.Errorf("what the replica had before: %v", err)
			} else {
				_ = v.Close()
			}
			written := int64(120 * 4 * (32 << 10))
			if r.bytes >= written {
				t.Errorf("%d bytes were received, and %d written meanwhile", r.bytes, written)
			}
			t.Logf("%d leaps, %d bytes received of %d that were written meanwhile", leaps, r.bytes, written)
			mustClose(t, r.replica)
			report, err := Verify(t.Context(), r.there)
			if err != nil || !report.OK() {
				t.Fatalf("verify: %v, damage %+v", err, report.Damage)
			}
			r.replica = mustOpen(t, r.there)
			r.checkReplica()
			r.away(60)
			if _, err := r.catchUp(records); err != nil {
				t.Fatal(err)
			}
			if err := r.replica.Maintain(t.Context()); err != nil { // thins what it leapt over, too
				t.Fatal(err)
			}
			r.checkReplica()
		})
	}
}

// Whatever I/O of the replica fails or is its last one, it stands where it stood or at a
// position that the source has kept, reads right, and goes on.
func TestLeapCrashAtEveryOperation(t *testing.T) {
	r := newLeapRig(t, manualClock(), nil)
	r.seconds(6)
	if err := r.follow(); err != nil {
		t.Fatal(err)
	}
	r.away(60)
	mustClose(t, r.replica)
	behind := r.disk // as it was before the source was seen again
	comeBack := func() {
		r.disk = behind.Crash(rand.New(rand.NewPCG(1, 1))) // nothing of it is lost: all is synced
		r.faults = vfs.NewFault(r.disk)
		r.there.FS = r.faults
		r.replica = mustOpen(t, r.there)
		if err := r.takeUp(); err != nil {
			t.Fatal(err)
		}
	}
	comeBack()
	before := r.faults.Count()
	if leaps, err := r.catchUp(1 << 30); err != nil || leaps == 0 {
		t.Fatalf("%d leaps, then %v", leaps, err)
	}
	total := r.faults.Count() - before
	mustClose(t, r.replica)
	t.Logf("%d operations", total)
	inTheMiddle := 0
	for k := int64(1); k <= total; k++ {
		comeBack()
		stood := r.replica.Tip()
		chance := rand.New(rand.NewPCG(uint64(k), 1))
		if k%2 == 0 {
			r.faults.CrashTornAt(r.faults.Count()+k, chance)
		} else {
			r.faults.CrashAt(r.faults.Count() + k)
		}
		if _, err := r.catchUp(1 << 30); err == nil {
			t.Fatalf("operation %d: the replica did not crash", k)
		}
		r.reopen(chance)
		if r.replica.Tip().Seq == stood.Seq {
			inTheMiddle++
		}
		r.checkReplica()
		if t.Failed() {
			t.Fatalf("crashed at operation %d", k)
		}
		if err := r.takeUp(); err != nil {
			t.Fatalf("operation %d: %v", k, err)
		}
		if _, err := r.catchUp(1 << 30); err != nil || r.replica.Tip() != r.s.Tip() {
			t.Fatalf("operation %d: the replica does not go on from %s: %v", k, r.replica.Tip(), err)
		}
		r.checkReplica()
		r.checkNoLeftovers()
		if t.Failed() {
			t.Fatalf("crashed at operation %d", k)
		}
		mustClose(t, r.replica)
	}
	if inTheMiddle == 0 {
		t.Error("no crash came before the first leap was whole")
	}
}

// takeUp goes back to the source's timeline after recovery.
func (r *leapRig) takeUp() error {
	for _, line := range r.s.Timelines() {
		if line.ID == r.s.Tip().Timeline {
			return r.replica.Adopt(line)
		}
	}
	return ErrUnknownPosition
}

// checkNoLeftovers: there is no thinned segment that the store does not know.
func (r *leapRig) checkNoLeftovers() {
	r.t.Helper()
	names, err := r.disk.ReadDir(r.there.file(journalDir))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, name := range names {
		if isRewritten(name) && !r.replica.namesLocked(journalDir+"/"+name) {
			r.t.Errorf("%s was left behind", name)
		}
	}
}

// A leap that was interrupted goes on behind what was received; anything else
// that moves the tip ends it, and its files.
func TestLeapGoesOnOrEnds(t *testing.T) {
	r := newLeapRig(t, manualClock(), nil)
	r.seconds(6)
	if err := r.follow(); err != nil {
		t.Fatal(err)
	}
	r.away(80)
	half := func() Seq {
		reader, err := r.s.Survivors(r.replica.Tip(), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		if err := r.replica.BeginLeap(reader.Interval()); err != nil {
			t.Fatal(err)
		}
		var last Seq
		for range 20 {
			record, err := reader.Next()
			if err == nil {
				err = r.replica.AppendLeap([]Record{record})
			}
			if err != nil {
				t.Fatal(err)
			}
			last = record.Position.Seq
		}
		return last
	}
	stood := r.replica.Tip()
	last := half()
	if from, through, ok := r.replica.Leap(); !ok || from != stood || through != last {
		t.Fatalf("leap is %s through %d, %v; want %s through %d", from, through, ok, stood, last)
	}
	if r.replica.Tip() != stood || r.replica.Durable() != stood {
		t.Fatalf("the replica moved to %s before the leap was whole", r.replica.Tip())
	}
	received := r.bytes
	if err := r.leap(1 << 30); err != nil {
		t.Fatal(err)
	}
	r.checkReplica()
	t.Logf("%d bytes behind what was there", r.bytes-received)

	if _, err := r.catchUp(1); err != nil {
		t.Fatal(err)
	}
	r.away(80)
	half()
	if _, err := r.replica.Fork(r.replica.Tip(), "failover"); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := r.replica.Leap(); ok {
		t.Error("the leap outlived a fork")
	}
	r.checkNoLeftovers()
	r.checkReplica()
}

// What does not fit a leap is refused and changes nothing.
func TestLeapRefuses(t *testing.T) {
	r := newLeapRig(t, manualClock(), nil)
	r.seconds(3)
	if err := r.follow(); err != nil {
		t.Fatal(err)
	}
	tip := r.replica.Tip()
	at := func(seq Seq, kind Kind) Record {
		record := Record{Kind: kind, Position: Position{tip.Timeline, seq}, Length: 4096, Payload: make([]byte, 4096)}
		if kind == KindCheckpoint {
			record.Offset, record.Payload = 99, (&CheckpointInfo{Group: "shop"}).appendEncoded(nil)
		}
		record.PayloadCRC = PayloadChecksum(record.Payload)
		return record
	}
	next, point := at(tip.Seq+3, KindWrite), at(tip.Seq+9, KindCheckpoint)
	bad := next
	bad.PayloadCRC++
	elsewhere := next
	elsewhere.Position.Timeline++
	known := r.s.Timelines()[0]
	for name, c := range map[string]struct {
		records []Record
		end     Position
		line    *Timeline
		want    error
	}{
		"nothing":                  {nil, tip, nil, ErrGap},
		"behind the tip":           {[]Record{at(tip.Seq, KindWrite)}, tip, nil, ErrGap},
		"twice":                    {[]Record{next, next}, next.Position, nil, ErrGap},
		"of another timeline":      {[]Record{elsewhere}, elsewhere.Position, nil, ErrGap},
		"damaged":                  {[]Record{bad}, bad.Position, nil, ErrCorrupt},
		"ends elsewhere":           {[]Record{next, point}, next.Position, nil, ErrGap},
		"ends at no checkpoint":    {[]Record{next}, next.Position, nil, ErrGap},
		"timeline that is known":   {[]Record{next}, next.Position, &known, ErrDiverged},
		"timeline from elsewhere":  {[]Record{next}, next.Position, &Timeline{ID: 5, Parent: tip}, ErrDiverged},
		"timeline without a name":  {[]Record{next}, next.Position, &Timeline{Parent: next.Position}, ErrDiverged},
		"leap that did not begin":  {nil, tip, nil, ErrGap},
		"thinned to less than one": {nil, tip, nil, ErrRange},
	} {
		t.Run(name, func(t *testing.T) {
			err := error(nil)
			switch name {
			case "leap that did not begin":
			case "thinned to less than one":
				err = r.replica.BeginLeap(0)
			default:
				err = r.replica.BeginLeap(1)
			}
			if err == nil {
				err = r.replica.AppendLeap(c.records)
			}
			if err == nil {
				err = r.replica.EndLeap(c.end, c.line)
			}
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if r.replica.Tip() != tip {
				t.Errorf("the replica moved to %s", r.replica.Tip())
			}
			r.checkNoLeftovers()
		})
	}
}

// A leap begins at the tip, so what is appended at this site ends it.
func TestLeapEndsWithALocalAppend(t *testing.T) {
	r := newLeapRig(t, manualClock(), nil)
	if _, err := r.replica.Fork(r.replica.Tip(), "failover"); err != nil {
		t.Fatal(err)
	}
	tip := r.replica.Tip()
	point := Record{Kind: KindCheckpoint, Position: Position{tip.Timeline, tip.Seq + 9}, Offset: 99, Payload: (&CheckpointInfo{Group: "shop"}).appendEncoded(nil)}
	point.PayloadCRC = PayloadChecksum(point.Payload)
	if err := errors.Join(r.replica.BeginLeap(1), r.replica.AppendLeap([]Record{point})); err != nil {
		t.Fatal(err)
	}
	at, err := r.replica.Write(make([]byte, SectorBytes), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.replica.EndLeap(point.Position, nil); !errors.Is(err, ErrGap) {
		t.Errorf("end a leap from before a write: %v, want ErrGap", err)
	}
	if got := r.replica.Tip(); got != at {
		t.Errorf("the tip is %s, want that of the write, %s", got, at)
	}
	r.checkNoLeftovers()
}

// A leap that finds no room is given up, with its files; it succeeds when there
// is some.
func TestLeapWithoutRoom(t *testing.T) {
	for _, op := range []vfs.Op{vfs.OpWrite, vfs.OpCommit} {
		t.Run(op.String(), func(t *testing.T) {
			r := newLeapRig(t, manualClock(), nil)
			r.seconds(6)
			if err := r.follow(); err != nil {
				t.Fatal(err)
			}
			r.away(60)
			stood := r.replica.Tip()
			r.faults.FailAt(r.faults.Count(op)+1, vfs.ErrNoSpace, op)
			if _, err := r.catchUp(1 << 30); !errors.Is(err, ErrFull) {
				t.Fatalf("%v, want ErrFull", err)
			}
			if r.replica.Tip() != stood || r.replica.Err() != nil {
				t.Fatalf("the replica stands at %s, %v", r.replica.Tip(), r.replica.Err())
			}
			r.checkNoLeftovers()
			if _, err := r.catchUp(1 << 30); err != nil {
				t.Fatal(err)
			}
			r.checkReplica()
		})
	}
}

// The path forks, at a position that is no checkpoint, in history that was
// thinned since, and the volume grows there. The leap ends at the fork.
func TestLeapToAFork(t *testing.T) {
	r := newLeapRig(t, manualClock(), func(cfg *Config) { cfg.History = History{{1e9, 4e9}, {60e9, 3600e9}} })
	r.seconds(6)
	if err := r.follow(); err != nil {
		t.Fatal(err)
	}
	stood := r.replica.Tip()
	r.seconds(65)
	if _, err := r.s.Resize(rigVolumeBytes + 4096); err != nil {
		t.Fatal(err)
	}
	at, err := r.s.Write(make([]byte, 4096), 0)
	if err != nil {
		t.Fatal(err)
	}
	image := readAll(t, r.s, rigVolumeBytes+4096)
	r.seconds(130) // what is thinned ends at a checkpoint that is kept, and that one is behind the fork
	line, err := r.s.Fork(at, "rewind")
	if err != nil {
		t.Fatal(err)
	}
	r.away(300)
	r.s.mu.RLock()
	thinned := r.s.segmentOfLocked(at).thinned > 0
	r.s.mu.RUnlock()
	if !thinned {
		t.Fatal("nothing was thinned where the path forks")
	}
	for r.replica.Tip().Timeline != line.ID {
		if err := r.leap(1 << 30); err != nil {
			t.Fatalf("leap from %s: %v", r.replica.Tip(), err)
		}
	}
	if want := (Position{line.ID, at.Seq}); r.replica.Tip() != want {
		t.Fatalf("the replica stands at %s, want %s", r.replica.Tip(), want)
	}
	if r.replica.SizeBytes() != int64(len(image)) || !bytes.Equal(readAll(t, r.replica, int64(len(image))), image) {
		t.Error("the replica reads otherwise where the path forks")
	}
	if size, err := r.replica.SizeAt(stood); err != nil || size != rigVolumeBytes {
		t.Errorf("the volume had %d bytes where the replica stood, %v", size, err)
	}
	mustClose(t, r.replica)
	r.replica = mustOpen(t, r.there)
	if err := r.takeUp(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.catchUp(1); err != nil || r.replica.Tip() != r.s.Tip() {
		t.Fatalf("the replica stands at %s, the source at %s: %v", r.replica.Tip(), r.s.Tip(), err)
	}
	r.checkReplica()
}
