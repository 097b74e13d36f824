package fleet_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// changesWait has all changes of backing volumes wait while it is set, and until it is
// let go. No scrub ends then, because it notes that it is through.
type changesWait struct {
	set    atomic.Bool
	letGo  sync.Once
	passed chan struct{}
}

func (w *changesWait) files(fs vfs.FS) vfs.FS {
	return vfs.Gated{FS: fs, Pass: func() error {
		if w.set.Load() {
			<-w.passed
		}
		return nil
	}}
}

func (w *changesWait) end() { w.letGo.Do(func() { close(w.passed) }) }

// TestAVolumeThatRestsIsScrubbed: its engine is started for it, alone, and rests again.
func TestAVolumeThatRestsIsScrubbed(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	restingAfterRewinds(t, c, f)
	awaitRest(t, c)
	starts, told := c.started(), 0
	got, err := f.Scrub(bounded(t), id(2), true, func(engine.ScrubStep) {
		told++
		if c.node(id(2)) == "" {
			t.Error("there is no engine while it goes on")
		}
	})
	if err != nil || got.ReadBytes < volumeBytes || len(got.Damaged) > 0 || told == 0 {
		t.Errorf("%+v, %v, told %d times", got, err, told)
	}
	if n := c.started(); n != starts+1 {
		t.Errorf("%d engines were started for one volume", n-starts)
	}
	awaitRest(t, c)
}

// TestAScrubWhoseEngineDies is told at once, with what to make of it; the next one is
// whole.
func TestAScrubWhoseEngineDies(t *testing.T) {
	c, wait := newCluster(t), &changesWait{passed: make(chan struct{})}
	c.files = wait.files
	f := c.open()
	defer closeFleet(t, f)
	defer wait.end()
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	write(t, c.device(id(1)), 1)
	takePoint(t, f, "shop")
	wait.set.Store(true)
	var dying sync.WaitGroup
	kill := sync.OnceFunc(func() { dying.Go(func() { c.kill(id(1)) }) })
	got, err := f.Scrub(bounded(t), id(1), false, func(engine.ScrubStep) { kill() })
	if !errors.Is(err, fleet.ErrScrubEnded) {
		t.Errorf("%+v, %v, want ErrScrubEnded", got, err)
	}
	wait.end()
	dying.Wait()
	if got, err := f.Scrub(bounded(t), id(1), false, func(engine.ScrubStep) {}); err != nil || got.ReadBytes < volumeBytes {
		t.Errorf("the next one: %+v, %v", got, err)
	}
}

// TestAVolumeThatCannotBeScrubbed is refused, with what keeps its engine away.
func TestAVolumeThatCannotBeScrubbed(t *testing.T) {
	c := newCluster(t)
	noRoom := errors.New("no node has room for the pod")
	c.run = func(context.Context, fleet.EngineSpec) error { return noRoom }
	f := c.open()
	defer closeFleet(t, f)
	told := func(engine.ScrubStep) { t.Error("it goes on") }
	if _, err := f.Scrub(bounded(t), id(1), false, told); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("a volume that there is not: %v, want ErrNotFound", err)
	}
	mustCreate(t, f, newVolume(1, "shop"))
	asking, stop := context.WithCancel(ctx)
	defer stop()
	refused := make(chan error, 1)
	go func() {
		_, err := f.Scrub(asking, id(1), false, told)
		refused <- err
	}()
	until(t, "the engine to be known to fail", func() bool {
		v, err := f.Volume(id(1))
		return err == nil && errors.Is(v.Err, noRoom)
	})
	stop()
	if err := <-refused; !errors.Is(err, fleet.ErrNoEngine) || !errors.Is(err, noRoom) {
		t.Errorf("%v, want ErrNoEngine and why", err)
	}
}

// TestAScrubRepairsFromTheOtherSite: the engine asks its peer, which has what is damaged.
func TestAScrubRepairsFromTheOtherSite(t *testing.T) {
	a, _, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	v := newVolume(1, "shop")
	v.Settings.ReplicateTo = "b"
	mustCreate(t, fa, v)
	mustAttach(t, fa, 1, "node1")
	for _, content := range []byte{1, 9} { // the first comes to the peer as an image, without records
		write(t, a.device(id(1)), content)
		p := takePoint(t, fa, "shop")
		until(t, "the replica to hold the point", func() bool {
			points, err := fb.Groups().Points(bounded(t), "shop")
			return err == nil && len(points) > 0 && points[len(points)-1].Checkpoint >= p.Checkpoint
		})
	}
	// Between two engines: the first one seals what it was writing.
	damage := sync.OnceValue(func() error {
		_, err := a.backing[id(1)].CorruptContent("/backing/store-1/journal", bytes.Repeat([]byte{9}, 512), 16)
		return err
	})
	a.mu.Lock()
	a.begin = func(context.Context, fleet.EngineSpec) error { return damage() }
	a.mu.Unlock()
	starts := a.started()
	a.kill(id(1))
	until(t, "the next engine", func() bool { return a.started() > starts })
	got, err := fa.Scrub(bounded(t), id(1), true, func(engine.ScrubStep) {})
	if err != nil || len(got.Damaged) > 0 || got.PeerErr != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := damage(); err != nil {
		t.Fatalf("nothing was damaged: %v", err)
	}
	// The scrub in the engine's own time may have been first.
	if len(got.Repaired) > 0 && got.Peer != "b" {
		t.Errorf("repaired from %q: %+v", got.Peer, got.Repaired)
	}
	until(t, "the device", func() bool { v, err := fa.Volume(id(1)); return err == nil && v.State.Device != "" })
	expect(t, a.device(id(1)), 9)
}
