package journal

import (
	"encoding/binary"
	"math/rand/v2"
	"path"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// The week: a working set of 1 GiB that is overwritten at random at 10 MB/s,
// scaled to 1:4096 in space. Time is not scaled, but that the first tier has a
// checkpoint every 10 s, and not every second. 64 blocks of 4 KiB get 6 writes
// in 10 s; an interval of a minute changes 43 % of them, one of an hour all,
// as in the original. Segments are as small as they can be, 1:256 of 64 MiB, so
// that a job of eight takes more of an interval than in the original.
const (
	weekBlocks     = 64
	weekBlockBytes = 4096
	weekWrites     = 6 // between two checkpoints
	weekStep       = 10 * time.Second
	weekDays       = 8 // one more than the window, so that its end is in it
	weekHistory    = "10s:1h,1m:24h,1h:7d"
	weekMaxRatio   = 1.3
)

// week is what was written, in checkpoints' order.
type week struct {
	start  time.Time
	writes [][weekWrites]byte // blocks, before each checkpoint
}

func (w *week) timeOf(i int) time.Time { return w.start.Add(time.Duration(i) * weekStep) }

// kept are the checkpoints that the history keeps at a time, found from their
// times alone: all for an hour, the first of each minute for a day, the first of
// each hour for a week.
func (w *week) kept(now time.Time) (kept []int) {
	for i := range w.writes {
		at, interval := w.timeOf(i), time.Duration(0)
		switch age := now.Sub(at); {
		case age > 7*24*time.Hour:
			continue
		case age > 24*time.Hour:
			interval = time.Hour
		case age > time.Hour:
			interval = time.Minute
		}
		if interval == 0 || at.Truncate(interval).After(at.Add(-weekStep)) {
			kept = append(kept, i)
		}
	}
	return kept
}

// need is the theoretical need in bytes: the blocks that neighbouring kept
// points differ by, and nothing else.
func (w *week) need(kept []int) (bytes int64) {
	for k := 1; k < len(kept); k++ {
		var differ [weekBlocks]bool
		for i := kept[k-1] + 1; i <= kept[k]; i++ {
			for _, block := range w.writes[i] {
				differ[block] = true
			}
		}
		for _, d := range differ {
			if d {
				bytes += weekBlockBytes
			}
		}
	}
	return bytes
}

// TestSpaceOfAWeek measures what a week of history takes against what its kept
// points differ by.
func TestSpaceOfAWeek(t *testing.T) {
	history, err := ParseHistory(weekHistory)
	if err != nil {
		t.Fatal(err)
	}
	mem, now := vfs.NewMem(), clock.NewManual(worldStart)
	makeParent(t, mem)
	cfg := Config{FS: mem, Dir: worldDir, Clock: now, SegmentBytes: MinSegmentBytes, Window: history.Window(), History: history}
	if err := Create(cfg, Spec{testVolume, weekBlocks * weekBlockBytes}); err != nil {
		t.Fatal(err)
	}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, s)
	rng := rand.New(rand.NewPCG(1, 2))
	w := week{start: worldStart.Add(weekStep)}
	var wrote int64
	block := make([]byte, weekBlockBytes)
	for range weekDays * 24 * time.Hour / weekStep {
		var blocks [weekWrites]byte
		for i := range blocks {
			blocks[i] = byte(rng.IntN(weekBlocks))
			binary.LittleEndian.PutUint64(block, rng.Uint64())
			if _, err := s.Write(block, int64(blocks[i])*weekBlockBytes); err != nil {
				t.Fatal(err)
			}
			wrote += weekBlockBytes
		}
		now.Advance(weekStep)
		w.writes = append(w.writes, blocks)
		c := Checkpoint{Number: CheckpointNumber(len(w.writes)), Time: now.Now(), CheckpointInfo: CheckpointInfo{Group: "shop", Members: []VolumeID{testVolume}}}
		if _, err := s.Checkpoint(c); err != nil {
			t.Fatal(err)
		}
		if len(w.writes)%30 == 0 {
			if err := s.Maintain(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.compare(t, s, mem, wrote)
}

func (w *week) compare(t *testing.T, s *Store, mem *vfs.Mem, wrote int64) {
	t.Helper()
	kept := w.kept(s.cfg.Clock.Now())
	listed := map[CheckpointNumber]bool{}
	for _, c := range s.Checkpoints() {
		listed[c.Number] = true
	}
	for _, i := range kept {
		if !listed[CheckpointNumber(i+1)] {
			t.Fatalf("the checkpoint of %s is kept and not listed", w.timeOf(i))
		}
	}
	need, space, st := w.need(kept), journalSpace(t, mem), s.Stats()
	ratio := float64(space) / float64(need)
	t.Logf("%d kept points; need %.1f MiB, space %.1f MiB: %.2fx of the need (at most %.1f); without thinning %.0f MiB",
		len(kept), mib(need), mib(space), ratio, weekMaxRatio, mib(wrote))
	t.Logf("by tier %v; %d rewrites read %.0f MiB and wrote %.0f MiB, %.2fx of what was written to the volume",
		st.Thinning.Tiers, st.Thinning.Rewrites, mib(st.Thinning.ReadBytes), mib(st.Thinning.WrittenBytes), float64(st.Thinning.WrittenBytes)/float64(wrote))
	if ratio > weekMaxRatio {
		t.Errorf("history takes %.2fx of its theoretical need, want at most %.1f", ratio, weekMaxRatio)
	}
	if st.Thinning.WrittenBytes > 2*wrote {
		t.Errorf("thinning wrote %d bytes for %d of the volume, want at most once for each of two tiers", st.Thinning.WrittenBytes, wrote)
	}
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// journalSpace is what all files of the journal take: records, footers, index
// runs, spare files.
func journalSpace(t *testing.T, mem *vfs.Mem) (bytes int64) {
	t.Helper()
	dir := path.Join(worldDir, journalDir)
	names, err := mem.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		n, err := mem.Stat(path.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		bytes += n
	}
	return bytes
}
