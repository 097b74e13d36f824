package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

const (
	worldVolumeBytes = 64 << 10
	worldDir         = "stores/v"
)

var worldStart = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// world runs random calls on a store over a simulated disk and keeps a model
// of what they did. The same seed makes the same calls.
type world struct {
	t     *testing.T
	mem   *vfs.Mem
	fault *vfs.Fault
	clock *clock.Manual
	cfg   Config
	rng   *rand.Rand
	s     *Store
	m     *model
	views []heldView
	count int // of calls, which number pins and checkpoints
}

// heldView is a view that stays open while the store goes on.
type heldView struct {
	*View
	want []byte
}

// randomReader gives timelines ids that repeat with the seed.
type randomReader struct{ *rand.Rand }

func (r randomReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return len(p), nil
}

// newWorld makes an empty store, with nothing failing yet, and opens it.
func newWorld(t *testing.T, seed uint64, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, mem: vfs.NewMem(), clock: clock.NewManual(worldStart), rng: rand.New(rand.NewPCG(seed, 7))}
	w.cfg = Config{FS: w.mem, Dir: worldDir, Clock: w.clock, Random: randomReader{rand.New(rand.NewPCG(seed, 8))}, SegmentBytes: MinSegmentBytes}
	if change != nil {
		change(&w.cfg)
	}
	makeParent(t, w.mem)
	if err := Create(w.cfg, Spec{testVolume, worldVolumeBytes}); err != nil {
		t.Fatal(err)
	}
	w.mount(w.mem)
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	w.m = newModel(w.s.Tip(), worldVolumeBytes)
	w.m.history, w.m.now = w.cfg.History, w.clock.Now
	w.m.window, w.m.budget = w.cfg.Window, w.cfg.JournalBytes > 0
	return w
}

func makeParent(t *testing.T, fs vfs.FS) {
	t.Helper()
	if err := fs.MkdirAll(path.Dir(worldDir)); err != nil {
		t.Fatal(err)
	}
	if err := fs.SyncDir("."); err != nil {
		t.Fatal(err)
	}
}

// mount puts a fresh Fault over a disk.
func (w *world) mount(mem *vfs.Mem) {
	w.mem, w.fault = mem, vfs.NewFault(mem)
	w.cfg.FS = w.fault
}

func (w *world) open() (err error) {
	w.s, err = Open(w.cfg)
	return err
}

// step is one kind of call and how often it is made.
type step struct {
	weight int
	do     func(w *world) error
}

// run makes n calls and returns the error of the first that fails.
func (w *world) run(steps []step, n int) error {
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	for range n {
		w.count++
		w.clock.Advance(time.Second)
		pick := w.rng.IntN(total)
		i := slices.IndexFunc(steps, func(s step) bool { pick -= s.weight; return pick < 0 })
		if err := steps[i].do(w); err != nil {
			return err
		}
		w.m.attempt = nil
	}
	return nil
}

// record makes a call that appends one record.
func (w *world) record(after []byte, call func() (Position, error)) (Position, error) {
	w.m.attempt = &attempt{image: after, size: int64(len(after))}
	if int64(len(w.m.image())) < w.m.size {
		w.m.attempt.grown = w.m.live()
	}
	pos, err := call()
	if err == nil {
		w.m.learn(w.s)
		w.m.advance(pos, after)
	}
	return pos, err
}

func (w *world) write() error {
	off, length := randomExtent(w.rng, w.m.size, 24)
	p := randomBytes(w.rng, length)
	_, err := w.record(w.m.after(p, off), func() (Position, error) { return w.s.Write(p, off) })
	return err
}

func (w *world) discard() error {
	off, length := randomExtent(w.rng, w.m.size, 40)
	call := w.s.Discard
	if w.rng.IntN(2) == 0 {
		call = w.s.Zero
	}
	_, err := w.record(w.m.after(make([]byte, length), off), func() (Position, error) { return call(off, length) })
	return err
}

func (w *world) checkpoint() error {
	c := Checkpoint{
		Number: CheckpointNumber(w.count), Time: w.clock.Now(),
		CheckpointInfo: CheckpointInfo{Group: "shop", Members: []VolumeID{testVolume}},
	}
	pos, err := w.record(w.m.live(), func() (Position, error) { return w.s.Checkpoint(c) })
	if err == nil {
		w.m.points[c.Number], w.m.times[c.Number] = pos, c.Time
	}
	return err
}

func (w *world) resize() error {
	grown := make([]byte, w.m.size+SectorBytes*int64(1+w.rng.IntN(4)))
	copy(grown, w.m.image()) // its own record, behind the one that the tip may need
	_, err := w.record(grown, func() (Position, error) { return w.s.Resize(int64(len(grown))) })
	if err == nil {
		w.m.size = int64(len(grown))
		w.m.acknowledge()
	}
	return err
}

func (w *world) flush() error {
	err := w.s.Flush(context.Background())
	if err == nil {
		w.m.acknowledge()
	}
	return err
}

// scrub is a turn of the scrub, which finds nothing.
func (w *world) scrub() error {
	w.clock.Advance(10 * time.Second)
	if err := w.s.scrubDue(context.Background()); err != nil {
		return err
	}
	if damaged := w.s.Damaged(); len(damaged) > 0 {
		return &damaged[0]
	}
	return nil
}

func (w *world) maintain() error { return w.s.Maintain(context.Background()) }

// candidates are the positions that can be forked at and pinned.
func (w *world) candidates() []Position {
	return slices.DeleteFunc(slices.Clone(w.m.past), func(pos Position) bool {
		return !w.m.descends(pos, w.s.Horizon()) || w.isThinned(pos)
	})
}

func (w *world) fork() error {
	all := w.candidates()
	return w.forkAt(all[w.rng.IntN(len(all))])
}

func (w *world) forkAt(at Position) error {
	w.m.attempt = &attempt{fork: at}
	line, err := w.s.Fork(at, "rewind")
	if err != nil {
		return fmt.Errorf("fork at %s: %w", at, err)
	}
	w.m.acknowledge()
	w.m.parents[line.ID] = at
	w.m.tip = Position{line.ID, at.Seq}
	w.m.images[w.m.tip] = w.m.images[at]
	w.m.past = append(w.m.past, w.m.tip)
	w.m.durable[w.m.tip] = true
	return nil
}

func (w *world) pin() error {
	all := slices.DeleteFunc(w.candidates(), func(pos Position) bool { return !w.m.durable[pos] })
	if len(all) == 0 {
		return nil // nothing was flushed since history was thinned, or drained
	}
	at, name := all[w.rng.IntN(len(all))], fmt.Sprintf("pin-%d", w.count)
	going := w.isGoing(at)
	w.m.attempt, w.m.held = &attempt{pin: name}, true
	err := w.s.Pin(name, at)
	switch {
	case going && err == nil:
		return fmt.Errorf("pin at %s, a checkpoint that is in no list any more", at)
	case going && errors.Is(err, ErrHorizon):
		return nil
	case err == nil:
		w.m.pins[name] = at
	}
	return err
}

// isGoing reports whether a position is that of a checkpoint whose record is being destaged, by
// a batch that was cut off: it can be opened and read, and is in no list.
func (w *world) isGoing(at Position) bool {
	is := func(c Checkpoint) bool { return c.Position == at }
	return at == w.s.Horizon() && at != w.s.state.Base && slices.Contains(slices.Collect(maps.Values(w.m.points)), at) &&
		!slices.ContainsFunc(w.s.Checkpoints(), is)
}

func (w *world) unpin() error {
	for name := range w.m.pins {
		w.m.attempt = &attempt{pin: name}
		err := w.s.Unpin(name)
		if err == nil {
			delete(w.m.pins, name)
		}
		return err
	}
	return nil
}

func (w *world) reopen() error {
	if err := w.closeViews(); err != nil {
		return err
	}
	if err := w.s.Close(); err != nil {
		return err
	}
	w.m.acknowledge()
	return w.open()
}

// drain empties the journal and compares the base image with the volume.
func (w *world) drain() error {
	if err := w.closeViews(); err != nil {
		return err
	}
	w.m.attempt = &attempt{drain: true}
	if err := w.s.Drain(context.Background(), true); err != nil {
		return err
	}
	w.m.acknowledge()
	clear(w.m.pins)
	if tip := w.s.Tip(); tip != w.m.tip || w.s.Horizon() != tip {
		return fmt.Errorf("drained at %s: tip %s, horizon %s", w.m.tip, tip, w.s.Horizon())
	}
	return w.checkDrained()
}

// checkDrained makes sure that nothing is left but the image.
func (w *world) checkDrained() error {
	image, err := contentOf(w.mem, worldDir+"/"+baseFile)
	if err != nil {
		return err
	}
	if int64(len(image)) != w.m.size || !bytes.Equal(image, w.m.live()) {
		return fmt.Errorf("drained image of %d bytes differs from the volume of %d in sector %d", len(image), w.m.size, firstDifference(image, w.m.live()))
	}
	names, err := w.mem.ReadDir(worldDir + "/" + journalDir)
	if err == nil && len(names) > 0 {
		err = fmt.Errorf("drained journal still has %q", names)
	}
	return err
}

// contentOf reads a whole file.
func contentOf(fs vfs.FS, name string) ([]byte, error) {
	f, err := fs.OpenReadOnly(name)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	p := make([]byte, size)
	if err == nil {
		err = readFull(f, p, 0)
	}
	return p, errors.Join(err, f.Close())
}

// hold opens a view to be read much later, and closes old ones.
func (w *world) hold() error {
	all := w.candidates()
	at := all[w.rng.IntN(len(all))]
	w.m.held = true
	v, err := w.s.View(at)
	if err != nil {
		return err
	}
	w.views = append(w.views, heldView{v, w.m.images[at]})
	if len(w.views) > 2 {
		oldest := w.views[0]
		w.views = w.views[1:]
		return oldest.checkAndClose()
	}
	return nil
}

func (w *world) closeViews() error {
	for _, v := range w.views {
		if err := v.checkAndClose(); err != nil {
			return err
		}
	}
	w.views = nil
	return nil
}

func (v heldView) checkAndClose() error {
	got := make([]byte, v.SizeBytes())
	if err := v.ReadAt(got, 0); err != nil {
		return err
	}
	if len(got) != len(v.want) || !sameImage(got, v.want) {
		return fmt.Errorf("view held at %s differs from the model in sector %d", v.Position(), firstDifference(got, v.want))
	}
	return v.Close()
}

// workloads are the mixes of calls that are crashed.
var workloads = []struct {
	name   string
	change func(*Config)
	steps  []step
}{
	{"append and flush", nil, []step{{8, (*world).write}, {2, (*world).discard}, {1, (*world).checkpoint}, {2, (*world).flush}}},
	{"rotate and seal", nil, []step{{20, (*world).write}, {1, (*world).maintain}, {1, (*world).flush}}},
	{"destage", shortJournal, []step{{16, (*world).write}, {4, (*world).discard}, {2, (*world).maintain}, {2, (*world).flush}, {1, (*world).checkpoint}}},
	{"destage directly", directDestage, []step{{16, (*world).write}, {3, (*world).discard}, {2, (*world).maintain}, {1, (*world).flush}, {1, (*world).reopen}, {1, (*world).hold}}},
	{"pin", shortJournal, []step{{8, (*world).write}, {1, (*world).flush}, {2, (*world).pin}, {2, (*world).unpin}, {2, (*world).maintain}}},
	{"fork", nil, []step{{8, (*world).write}, {2, (*world).fork}, {1, (*world).flush}, {1, (*world).maintain}}},
	{"fork and destage", shortJournal, []step{{12, (*world).write}, {1, (*world).fork}, {1, (*world).flush}, {2, (*world).maintain}, {1, (*world).hold}}},
	{"resize", nil, []step{{4, (*world).write}, {2, (*world).resize}, {1, (*world).flush}, {1, (*world).checkpoint}}},
	{"close and open", shortJournal, []step{{10, (*world).write}, {2, (*world).reopen}, {1, (*world).fork}, {1, (*world).maintain}}},
	{"index runs", smallIndex, []step{
		{8, (*world).write}, {1, (*world).discard}, {4, (*world).reopen}, {2, (*world).maintain}, {1, (*world).flush}, {1, (*world).fork}, {1, (*world).hold},
	}},
	{"drain", func(cfg *Config) { smallIndex(cfg); shortJournal(cfg) }, []step{
		{16, (*world).write}, {3, (*world).discard}, {1, (*world).resize}, {1, (*world).checkpoint}, {1, (*world).flush}, {1, (*world).maintain},
		{2, (*world).fork}, {2, (*world).pin}, {2, (*world).reopen}, {1, (*world).hold}, {3, (*world).drain},
	}},
	{"own journal, destage", ownJournal(shortJournal), []step{
		{12, (*world).write}, {2, (*world).maintain}, {2, (*world).reopen}, {1, (*world).fork}, {1, (*world).flush}, {1, (*world).pin}, {1, (*world).unpin},
	}},
	{"own journal, index runs", ownJournal(smallIndex), []step{
		{8, (*world).write}, {1, (*world).discard}, {4, (*world).reopen}, {2, (*world).maintain}, {1, (*world).flush},
	}},
	{"scrub", quickScrub, []step{{10, (*world).write}, {1, (*world).discard}, {2, (*world).maintain}, {3, (*world).scrub}, {1, (*world).flush}, {1, (*world).reopen}}},
	{"thin", thinning, []step{
		{20, (*world).writeMuch}, {8, (*world).checkpoint}, {1, (*world).discard}, {1, (*world).resize}, {3, (*world).flush}, {6, (*world).maintain},
		{1, (*world).fork}, {1, (*world).pin}, {1, (*world).unpin}, {1, (*world).reopen}, {1, (*world).hold},
	}},
	{"pins outlive the window", pinsLast, []step{
		{12, (*world).fillSegment}, {8, (*world).checkpoint}, {3, (*world).flush}, {8, (*world).maintain}, {1, (*world).fork}, {4, (*world).pin}, {2, (*world).unpinAny},
		{1, (*world).reopen},
	}},
	{"index on disk, destage", shortJournalSmallIndex, []step{
		{8, (*world).writeMuch}, {4, (*world).write}, {4, (*world).batch}, {2, (*world).discard}, {1, (*world).resize}, {3, (*world).maintain}, {1, (*world).flush}, {1, (*world).fork},
		{1, (*world).reopen}, {1, (*world).hold},
	}},
	{"own journal, thin", ownJournal(thinningShortJournal), []step{
		{16, (*world).writeMuch}, {8, (*world).checkpoint}, {2, (*world).batch}, {1, (*world).discard}, {3, (*world).flush}, {6, (*world).maintain},
		{1, (*world).fork}, {1, (*world).pin}, {1, (*world).unpinAny}, {1, (*world).reopen},
	}},
	{"keep a point", shortJournal, []step{
		{16, onFull((*world).fillSegment)}, {6, onFull((*world).checkpoint)}, {4, onFull((*world).flush)}, {4, (*world).keepPoint}, {2, (*world).crowd},
		{6, onFull((*world).maintainKept)}, {1, onFull((*world).fork)}, {1, onFull((*world).pin)}, {2, onFull((*world).unpinAny)},
	}},
	{"everything", quickScrub, []step{
		{16, (*world).write}, {4, (*world).discard}, {1, (*world).resize}, {2, (*world).checkpoint}, {2, (*world).flush}, {2, (*world).maintain},
		{1, (*world).fork}, {1, (*world).pin}, {1, (*world).unpin}, {1, (*world).reopen}, {1, (*world).hold}, {2, (*world).scrub},
	}},
}

// worldJournalDir is that of a journal with a directory of its own.
const worldJournalDir = "stores/v-journal"

// ownJournal adds it to another change.
func ownJournal(change func(*Config)) func(*Config) {
	return func(cfg *Config) {
		change(cfg)
		cfg.JournalDir = worldJournalDir
	}
}

// quickScrub makes passes of the scrub follow one another in a short journal.
func quickScrub(cfg *Config) {
	shortJournal(cfg)
	cfg.ScrubEvery = MinScrubEvery
}

// smallIndex has little of the index in memory, and many levels of runs.
func smallIndex(cfg *Config) { cfg.youngExtents, cfg.runStep = 8, 1 }

// shortJournal makes destage come early.
func shortJournal(cfg *Config) { cfg.JournalBytes = 2 * MinSegmentBytes }

// directDestage writes each whole block of the base past the page cache. One write at
// a time, so that a seed repeats the order of all operations.
func directDestage(cfg *Config) {
	shortJournal(cfg)
	cfg.directBytes, cfg.directDepth = vfs.DirectAlignBytes, 1
}
