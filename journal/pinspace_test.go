package journal

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

const hotBlockBytes = 4096

// hotSet is a volume of which every block is written again and again, with pins,
// and what it would take to keep what these differ by.
type hotSet struct {
	t      *testing.T
	mem    *vfs.Mem
	clock  *clock.Manual
	s      *Store
	rng    *rand.Rand
	blocks int
	pick   func() int // the next block to write
	wrote  []hotWrite
	points CheckpointNumber
	pins   []hotPin // oldest first
}

type hotWrite struct {
	block int
	at    time.Time
}

type hotPin struct {
	name   string
	writes int // before it
	at     Position
	sum    uint32
}

func newHotSet(t *testing.T, blocks int, keep Retention) *hotSet {
	t.Helper()
	h := &hotSet{t: t, mem: vfs.NewMem(), clock: manualClock(), rng: rand.New(rand.NewPCG(11, 12)), blocks: blocks}
	h.pick = func() int { return h.rng.IntN(blocks) }
	makeParent(t, h.mem)
	cfg := Config{FS: h.mem, IndexMemory: MinIndexMemory, Dir: worldDir, Clock: h.clock, SegmentBytes: MinSegmentBytes, Window: keep.Window, JournalBytes: keep.JournalBytes}
	if err := Create(cfg, Spec{testVolume, int64(blocks) * hotBlockBytes}); err != nil {
		t.Fatal(err)
	}
	h.s = mustOpen(t, cfg)
	t.Cleanup(func() { mustClose(t, h.s) })
	return h
}

// step writes to random blocks and takes a checkpoint.
func (h *hotSet) step(writes int) Position {
	h.t.Helper()
	block := make([]byte, hotBlockBytes)
	for range writes {
		b := h.pick()
		binary.LittleEndian.PutUint64(block, h.rng.Uint64())
		if _, err := h.s.Write(block, int64(b)*hotBlockBytes); err != nil {
			h.t.Fatal(err)
		}
		h.wrote = append(h.wrote, hotWrite{b, h.clock.Now()})
	}
	h.points++
	at, err := h.s.Checkpoint(Checkpoint{Number: h.points, Time: h.clock.Now(), CheckpointInfo: CheckpointInfo{Group: "shop", Members: []VolumeID{testVolume}}})
	if err == nil {
		err = h.s.Flush(h.t.Context())
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return at
}

func (h *hotSet) pin(at Position) {
	h.t.Helper()
	p := hotPin{fmt.Sprintf("pin-%d", len(h.wrote)), len(h.wrote), at, crc32.ChecksumIEEE(readAll(h.t, h.s, h.s.SizeBytes()))}
	if err := h.s.Pin(p.name, at); err != nil {
		h.t.Fatal(err)
	}
	h.pins = append(h.pins, p)
}

func (h *hotSet) unpin(i int) {
	h.t.Helper()
	if err := h.s.Unpin(h.pins[i].name); err != nil {
		h.t.Fatal(err)
	}
	h.pins = slices.Delete(h.pins, i, i+1)
}

func (h *hotSet) maintain() {
	h.t.Helper()
	for range 2 { // destage has what thinning left at its end
		if err := h.s.Maintain(h.t.Context()); err != nil {
			h.t.Fatal(err)
		}
	}
}

// need is what the pins that are older than the window differ by, each from the
// one before and the window's begin from the last, in bytes, and what was written
// in the window.
func (h *hotSet) need() (bytes int64) {
	begin := h.clock.Now().Add(-h.s.cfg.Window)
	inWindow, _ := slices.BinarySearchFunc(h.wrote, begin, func(w hotWrite, t time.Time) int { return w.at.Compare(t) })
	for i := range h.pins {
		from, to := h.pins[i].writes, inWindow
		if i+1 < len(h.pins) {
			to = min(to, h.pins[i+1].writes)
		}
		if from >= to {
			break
		}
		differ := map[int]bool{}
		for _, w := range h.wrote[from:to] {
			differ[w.block] = true
		}
		bytes += int64(len(differ)) * hotBlockBytes
	}
	return bytes + int64(len(h.wrote)-inWindow)*hotBlockBytes
}

// compare measures the journal against the need, and reads every pin.
func (h *hotSet) compare(most float64) {
	h.t.Helper()
	need, space, st := h.need(), journalSpace(h.t, h.mem), h.s.Stats().Thinning
	written := int64(len(h.wrote)) * hotBlockBytes
	ratio := float64(space) / float64(need)
	h.t.Logf("%d pins: need %.1f MiB, space %.1f MiB: %.2fx (at most %.2f); thinning has written %.2fx of the %.0f MiB that the volume was",
		len(h.pins), mib(need), mib(space), ratio, most, float64(st.WrittenBytes)/float64(written), mib(written))
	if ratio > most {
		h.t.Errorf("%d pins take %.2fx of what they differ by, want at most %.2f", len(h.pins), ratio, most)
	}
	h.checkPins()
}

// checkPins reads every pin, and makes sure that the horizon has come close to the
// oldest of them.
func (h *hotSet) checkPins() {
	h.t.Helper()
	var before int64
	for _, g := range h.s.segments {
		if len(h.pins) > 0 && g.last < h.pins[0].at.Seq {
			before += g.bytes
		}
	}
	if before > 2*MinSegmentBytes {
		h.t.Errorf("%d bytes of the journal are from before the oldest pin", before)
	}
	for _, p := range h.pins {
		v, err := h.s.View(p.at)
		if err != nil {
			h.t.Fatalf("open %s: %v", p.name, err)
		}
		if crc32.ChecksumIEEE(readAll(h.t, v, v.SizeBytes())) != p.sum {
			h.t.Errorf("%s reads otherwise than it did", p.name)
		}
		if err := v.Close(); err != nil {
			h.t.Fatal(err)
		}
	}
}

// TestSpaceOfPins: hundreds of pins of a hot working set take what they differ by, also
// when more and more of them are deleted, in any order, and nothing when all are.
func TestSpaceOfPins(t *testing.T) {
	const blocks, pins, window = 128, 240, time.Hour
	h := newHotSet(t, blocks, Retention{Window: window})
	for i := range pins {
		for range 5 {
			h.clock.Advance(2 * time.Minute)
			h.step(60)
		}
		h.pin(h.step(0))
		if i%3 == 0 {
			h.maintain()
		}
	}
	for range 40 { // the last ones leave the window, too
		h.clock.Advance(2 * time.Minute)
		h.step(60)
		h.maintain()
	}
	h.compare(1.3)
	for len(h.pins) > 16 {
		for range 16 {
			h.unpin(h.rng.IntN(len(h.pins)))
			h.maintain()
		}
		h.compare(1.35)
	}
	for len(h.pins) > 0 {
		h.unpin(0)
	}
	h.maintain()
	// What is left over of a segment, the next ones, and the files that are kept for reuse.
	const beside = 8 * MinSegmentBytes
	if space, need := journalSpace(t, h.mem), h.need(); space > need+need/10+beside {
		t.Errorf("without pins the journal takes %.1f MiB, the window %.1f", mib(space), mib(need))
	}
	st := h.s.Stats().Thinning
	if written := int64(len(h.wrote)) * hotBlockBytes; st.WrittenBytes > 2*written {
		t.Errorf("thinning wrote %d bytes for %d of the volume", st.WrittenBytes, written)
	}
}

// TestSpaceOfAnOldPin: a single pin that is kept for long takes what differs from it,
// and not what was written since.
func TestSpaceOfAnOldPin(t *testing.T) {
	const blocks, rounds = 4096, 20
	h := newHotSet(t, blocks, Retention{Window: time.Hour})
	h.pin(h.step(blocks))
	for i := range rounds * 24 {
		h.clock.Advance(10 * time.Minute)
		h.step(blocks / 24)
		if i%3 == 2 {
			h.maintain()
		}
	}
	h.compare(1.3)
	if st, written := h.s.Stats().Thinning, int64(len(h.wrote))*hotBlockBytes; st.WrittenBytes > 5*written {
		t.Errorf("thinning wrote %d bytes for %d of the volume", st.WrittenBytes, written)
	}
	h.unpin(0)
	h.maintain()
	if h.need(); len(h.s.Pins()) != 0 || journalSpace(t, h.mem) > h.need()+10*MinSegmentBytes {
		t.Errorf("without the pin the journal takes %.1f MiB, the window %.1f", mib(journalSpace(t, h.mem)), mib(h.need()))
	}
}

// TestBudgetBesidePins: the budget is for the history, and what pins keep is beside it.
// What is too much for the budget is thinned, and not kept because a pin holds it.
func TestBudgetBesidePins(t *testing.T) {
	const blocks, budget = 2048, 40 * MinSegmentBytes
	h := newHotSet(t, blocks, Retention{JournalBytes: budget})
	h.pin(h.step(blocks))
	for range 200 {
		h.clock.Advance(time.Minute)
		h.step(blocks / 8)
		h.maintain()
	}
	differs := int64(blocks * hotBlockBytes)
	written, space := int64(len(h.wrote))*hotBlockBytes, journalSpace(t, h.mem)
	t.Logf("the pin differs by %.0f MiB, the budget is %.0f MiB, %.0f MiB were written, space is %.1f MiB", mib(differs), mib(budget), mib(written), mib(space))
	if most := budget + differs*13/10 + 16*MinSegmentBytes; space > most {
		t.Errorf("the journal takes %.1f MiB, want at most %.1f", mib(space), mib(most))
	}
	if history := h.s.Checkpoints(); len(history) < 8 || h.clock.Now().Sub(history[len(history)-8].Time) > 8*time.Minute {
		t.Errorf("%d checkpoints are left, want the eight that the budget has room for at least", len(history))
	}
	h.checkPins()
}

// TestThinningForPinsComesToAnEnd: where nothing is overwritten a rewrite frees nothing,
// whichever segments it takes, and none is looked at again and again. More was
// written than the lists of one rewrite have room for.
func TestThinningForPinsComesToAnEnd(t *testing.T) {
	const blocks = 3 * MinIndexMemory / thinBytesPerExtent
	h := newHotSet(t, blocks, Retention{Window: time.Hour})
	next := 0
	h.pick = func() int { next++; return next % blocks }
	h.pin(h.step(1))
	maintained := func() ThinningStats {
		for range 64 {
			h.clock.Advance(15 * time.Minute)
			h.step(blocks / 64)
		}
		h.clock.Advance(2 * time.Hour)
		h.step(1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := h.s.Maintain(ctx); err != nil {
			t.Fatal(err)
		}
		return h.s.Stats().Thinning
	}
	for range 3 {
		st := maintained()
		if st.Spared == 0 {
			t.Error("nothing was found to be not worth it")
		}
		if err := h.s.thinDue(t.Context()); err != nil {
			t.Fatal(err)
		}
		if again := h.s.Stats().Thinning; again.Spared != st.Spared || again.Rewrites != st.Rewrites {
			t.Errorf("with nothing new %d rewrites were found to be not worth it, and %d more made", again.Spared-st.Spared, again.Rewrites-st.Rewrites)
		}
	}
	h.checkPins()
}

// TestPinningCostsTheForegroundNothing: a pin is one change of the catalog, however
// many there are, and what is written afterwards, overwriting what is pinned, takes
// the operations that it takes without any.
func TestPinningCostsTheForegroundNothing(t *testing.T) {
	operations := func(pins int) (pinning, writing int64) {
		r := newThinRig(t, manualClock(), func(cfg *Config) { cfg.History, cfg.Window = nil, time.Hour })
		for i := range max(pins, 1) {
			c := r.second(1)
			before := r.fault.Count()
			if pins > 0 {
				if err := r.s.Pin(fmt.Sprint(i), c.Position); err != nil {
					t.Fatal(err)
				}
			}
			pinning = r.fault.Count() - before
		}
		before := r.fault.Count(vfs.OpWrite, vfs.OpWriteVec, vfs.OpSync, vfs.OpCommit)
		for range 5 { // within the segment
			if _, err := r.s.Write(make([]byte, 4096), 0); err != nil {
				t.Fatal(err)
			}
			if err := r.s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		return pinning, r.fault.Count(vfs.OpWrite, vfs.OpWriteVec, vfs.OpSync, vfs.OpCommit) - before
	}
	_, without := operations(0)
	one, withOne := operations(1)
	last, withMany := operations(200)
	if one == 0 || last != one {
		t.Errorf("the first pin takes %d operations, the 200th %d", one, last)
	}
	if without == 0 || withOne != without || withMany != without {
		t.Errorf("writing takes %d operations without pins, %d with one, %d with 200", without, withOne, withMany)
	}
}
