package journal

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// replicaWorld is a world whose store follows another one. The source never
// fails; the model is that of the replica, fed from the source's.
type replicaWorld struct {
	*world
	src *world
}

func newReplicaWorld(t *testing.T, seed uint64, change func(*Config)) *replicaWorld {
	t.Helper()
	w := &replicaWorld{world: newWorld(t, seed, change), src: newWorld(t, seed+1000, nil)}
	// The replica begins as an import of the source's empty image.
	if err := w.s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.mem.RemoveAll(worldDir); err != nil {
		t.Fatal(err)
	}
	cfg := w.cfg
	cfg.FS = w.mem
	start := w.src.s.Tip()
	im, err := NewImport(cfg, Spec{testVolume, worldVolumeBytes}, start, w.src.s.Timelines())
	if err != nil {
		t.Fatal(err)
	}
	if err := im.Commit(); err != nil {
		t.Fatal(err)
	}
	w.mount(w.mem)
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	w.m = newModel(start, worldVolumeBytes)
	return w
}

// produce makes changes on the source.
func (w *replicaWorld) produce() error {
	steps := []step{{8, (*world).write}, {2, (*world).discard}, {1, (*world).checkpoint}, {1, (*world).resize}}
	if err := w.src.run(steps, 1+w.rng.IntN(6)); err != nil {
		return err
	}
	return w.src.flush()
}

// rewind forks the source at a position that the replica cannot lose.
func (w *replicaWorld) rewind() error {
	var at Position
	for _, pos := range w.candidates() {
		if w.m.durable[pos] && (at.Timeline == 0 || w.rng.IntN(3) == 0) {
			if _, known := w.src.m.images[pos]; known {
				at = pos
			}
		}
	}
	if at.Timeline == 0 {
		return nil
	}
	line, err := w.src.s.Fork(at, "rewind")
	if err != nil {
		return err
	}
	src := w.src.m
	src.learn(w.src.s)
	src.tip = Position{line.ID, at.Seq}
	src.images[src.tip] = src.images[at]
	return w.ship()
}

// ship brings the replica some records nearer to the source.
func (w *replicaWorld) ship() error {
	if common, ok := Common(w.src.s.Path(), w.s.Path()); !ok {
		// In the other branch of the crash the source was rewound to before
		// this replica's horizon; only a new import could follow it.
		return nil
	} else if common != w.s.Tip() {
		if err := w.follow(); err != nil {
			return err
		}
	}
	reader, err := w.src.s.Records(w.s.Tip())
	if err != nil {
		return err
	}
	defer reader.Close()
	for range 1 + w.rng.IntN(8) {
		if !reader.Ready() {
			return nil
		}
		r, err := reader.Next(context.Background())
		if err != nil {
			return err
		}
		if err := w.receive(r); err != nil {
			return err
		}
	}
	return nil
}

// follow adopts the newest of the source's timelines that the replica can.
func (w *replicaWorld) follow() error {
	path := w.src.s.Path()
	for i := len(path) - 1; i >= 0; i-- {
		err := w.adopt(path[i].Timeline)
		if err == nil || !errors.Is(err, ErrUnknownPosition) && !errors.Is(err, ErrHorizon) {
			return err
		}
	}
	return errors.New("replica can adopt none of the source's timelines")
}

func (w *replicaWorld) adopt(id TimelineID) error {
	for _, line := range w.src.s.Timelines() {
		if line.ID != id {
			continue
		}
		w.m.learn(w.src.s)
		w.m.attempt = &attempt{fork: line.Parent}
		if err := w.s.Adopt(line); err != nil {
			return err
		}
		w.m.acknowledge()
		w.m.tip = w.s.Tip()
		if image, known := w.m.at(w.m.tip); known {
			w.m.images[w.m.tip], w.m.durable[w.m.tip] = image, true
			w.m.past = append(w.m.past, w.m.tip)
		}
	}
	return nil
}

func (w *replicaWorld) receive(r Record) error {
	if r.Position.Timeline != w.s.Tip().Timeline {
		if err := w.adopt(r.Position.Timeline); err != nil {
			return err
		}
	}
	image := w.src.m.images[r.Position]
	w.m.attempt = &attempt{image: image, size: w.sizeAfter(r)}
	if err := w.s.AppendRecords([]Record{r}); err != nil {
		return err
	}
	w.m.advance(r.Position, image)
	w.m.size = w.sizeAfter(r)
	if r.Kind == KindCheckpoint {
		w.m.points[CheckpointNumber(r.Offset)] = r.Position
	}
	w.m.attempt = nil
	return nil
}

// sizeAfter is what the replica knows of the size: it does not follow the
// timeline of every resize of the source.
func (w *replicaWorld) sizeAfter(r Record) int64 {
	switch r.Kind {
	case KindResize:
		return max(w.m.size, r.Length)
	case KindCheckpoint:
		return w.m.size
	default:
		return max(w.m.size, r.Offset+r.Length)
	}
}

// steps binds this world's own calls to those of any world.
func (w *replicaWorld) steps() []step {
	on := func(call func() error) func(*world) error { return func(*world) error { return call() } }
	return []step{
		{3, on(w.produce)}, {6, on(w.ship)}, {1, on(w.rewind)}, {2, (*world).flush}, {1, (*world).maintain}, {1, (*world).reopen},
	}
}

// failover makes the replica go its own way for some writes, from a position that it
// cannot lose. What is shipped next takes it back.
func (w *replicaWorld) failover() error {
	all := w.candidates()
	at := all[w.rng.IntN(len(all))]
	if !w.m.durable[at] {
		return nil
	}
	if err := w.forkAt(at); err != nil {
		return err
	}
	w.m.attempt = nil
	for range w.rng.IntN(6) {
		if err := w.write(); err != nil {
			return err
		}
		w.m.attempt = nil
	}
	return nil
}

// failoverSteps have it go back and forth, and forget.
func (w *replicaWorld) failoverSteps() []step {
	on := func(call func() error) func(*world) error { return func(*world) error { return call() } }
	return []step{
		{3, on(w.produce)}, {6, on(w.ship)}, {1, on(w.rewind)}, {3, on(w.failover)}, {2, (*world).flush}, {2, (*world).maintain}, {1, (*world).reopen}, {1, (*world).hold},
		{1, (*world).pin}, {1, (*world).unpinAny},
	}
}

// TestFailoverCrashAtEveryOperation is that of a replica which is failed over to and back
// again and again, with an index on disk.
func TestFailoverCrashAtEveryOperation(t *testing.T) {
	for _, seed := range rounds(t) {
		dry := newReplicaWorld(t, seed, shortJournalSmallIndex)
		if err := dry.run(dry.failoverSteps(), crashCalls); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := errors.Join(dry.closeViews(), dry.s.Close()); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for k := int64(1); k <= dry.fault.Count(); k++ {
			w := newReplicaWorld(t, seed, shortJournalSmallIndex)
			w.crashAt(w.failoverSteps(), seed, k)
		}
	}
}

// TestReplicaCrashAtEveryOperation does to a replica what
// TestCrashAtEveryOperation does to a primary: it continues the same
// timelines, with recycled segments that hold some of the same records.
func TestReplicaCrashAtEveryOperation(t *testing.T) {
	for _, seed := range rounds(t) {
		dry := newReplicaWorld(t, seed, shortJournal)
		if err := dry.run(dry.steps(), crashCalls); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := dry.s.Close(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for k := int64(1); k <= dry.fault.Count(); k++ {
			w := newReplicaWorld(t, seed, shortJournal)
			w.crashAt(w.steps(), seed, k)
		}
	}
}

// TestImportCrashAtEveryOperation: before Commit returns there is no store or
// a whole one; after it there is a whole one; and where there is none the
// import can be made again.
func TestImportCrashAtEveryOperation(t *testing.T) {
	for name, journalDir := range map[string]string{"with the base": "", "of its own": worldJournalDir} {
		t.Run(name, func(t *testing.T) { importAndCrash(t, journalDir) })
	}
}

func importAndCrash(t *testing.T, journalDir string) {
	image := randomBytes(rand.New(rand.NewPCG(1, 1)), worldVolumeBytes)
	fill := func(cfg Config) error {
		im, err := NewImport(cfg, Spec{testVolume, worldVolumeBytes}, Position{}, nil)
		if err != nil {
			return err
		}
		for off := 0; off < len(image); off += 8192 {
			if err := im.WriteAt(image[off:off+8192], int64(off)); err != nil {
				return errors.Join(err, im.Abort())
			}
		}
		return im.Commit()
	}
	whole := func(t *testing.T, cfg Config) bool {
		s, err := Open(cfg)
		if errors.Is(err, ErrNotStore) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		defer mustClose(t, s)
		if !bytes.Equal(readAll(t, s, worldVolumeBytes), image) {
			t.Fatal("imported image differs")
		}
		return true
	}
	for k := int64(1); ; k++ {
		mem := vfs.NewMem()
		makeParent(t, mem)
		fault := vfs.NewFault(mem)
		chance := rand.New(rand.NewPCG(uint64(k), 5))
		fault.CrashTornAt(k, chance)
		err := fill(Config{FS: fault, Dir: worldDir, JournalDir: journalDir})
		if err != nil && !errors.Is(err, vfs.ErrCrashed) {
			t.Fatalf("operation %d: %v", k, err)
		}
		for range 8 {
			cfg := Config{FS: mem.Crash(chance), Dir: worldDir, JournalDir: journalDir}
			if whole(t, cfg) {
				continue
			}
			if err == nil {
				t.Fatal("a committed import is lost")
			}
			if err := fill(cfg); err != nil || !whole(t, cfg) {
				t.Fatalf("operation %d: import again: %v", k, err)
			}
		}
		if err == nil {
			return
		}
	}
}
