package enginepod_test

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/enginepod"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// readGate is a file system whose files are not read while it is shut: no scrub ends
// then.
type readGate struct {
	vfs.FS
	mu     sync.Mutex
	opened chan struct{} // closed while it is open
}

func newReadGate(fs vfs.FS) *readGate {
	g := &readGate{FS: fs, opened: make(chan struct{})}
	close(g.opened)
	return g
}

func (g *readGate) pass() {
	g.mu.Lock()
	opened := g.opened
	g.mu.Unlock()
	<-opened
}

// shut shuts the gate until the returned function is called.
func (g *readGate) shut() (open func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened = make(chan struct{})
	return sync.OnceFunc(func() { close(g.opened) })
}

func (g *readGate) Create(name string) (vfs.File, error) { return g.file(g.FS.Create(name)) }
func (g *readGate) Open(name string) (vfs.File, error)   { return g.file(g.FS.Open(name)) }
func (g *readGate) OpenReadOnly(name string) (vfs.File, error) {
	return g.file(g.FS.OpenReadOnly(name))
}

func (g *readGate) file(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return readGateFile{f, g}, nil
}

type readGateFile struct {
	vfs.File
	gate *readGate
}

func (f readGateFile) ReadAt(p []byte, off int64) (int, error) {
	f.gate.pass()
	return f.File.ReadAt(p, off)
}

func (f readGateFile) ReadVecAt(bufs [][]byte, off int64) (int, error) {
	f.gate.pass()
	return f.File.ReadVecAt(bufs, off)
}

// scrubbedRig is an engine whose store has sealed segments, behind a gate; damaged has
// one of them damaged.
func scrubbedRig(t *testing.T, damaged bool) (*rig, *readGate) {
	t.Helper()
	r := newRig(t, newNetwork(), 1)
	r.order(r.primary(1, 1))
	write(t, r.engine(), 0, 7)
	if err := r.engine().Flush(ctx); err != nil {
		t.Fatal(err)
	}
	r.stop() // which seals what it was writing
	if damaged {
		if _, err := r.fs.CorruptContent("/backing/store-1/journal", bytes.Repeat([]byte{7}, 512), 16); err != nil {
			t.Fatal(err)
		}
	}
	g := newReadGate(r.fs)
	r.files = g
	r.start()
	r.order(r.primary(1, 1))
	return r, g
}

func nothing(engine.ScrubStep) {}

// TestAScrubOrderedFindsDamage: as a standalone site's, which file and what is wrong with
// it, and with repair why it stays so.
func TestAScrubOrderedFindsDamage(t *testing.T) {
	sound, _ := scrubbedRig(t, false)
	if got, err := sound.client.Scrub(ctx, true, nothing); err != nil || len(got.Damaged) > 0 || got.ReadBytes == 0 {
		t.Errorf("a sound store: %+v, %v", got, err)
	}
	r, _ := scrubbedRig(t, true)
	for _, repair := range []bool{false, true} {
		told := 0
		got, err := r.client.Scrub(ctx, repair, func(engine.ScrubStep) { told++ })
		if err != nil || len(got.Damaged) != 1 || told == 0 {
			t.Fatalf("repair %t: %+v, %v, told %d times", repair, got, err, told)
		}
		place := got.Damaged[0]
		if !strings.HasPrefix(place.File, "journal/") || place.What == "" || place.Wanted == place.Found {
			t.Errorf("repair %t: damage is %+v", repair, place)
		}
		if knows := strings.Contains(place.Reason, "not replicated"); knows != repair {
			t.Errorf("repair %t: the reason is %q", repair, place.Reason)
		}
	}
	if s, _ := r.pod.State(); s.Store.Damaged != 1 {
		t.Errorf("the state tells of %d damaged places", s.Store.Damaged)
	}
}

func TestAScrubNeedsAStore(t *testing.T) {
	r := newRig(t, newNetwork(), 1)
	if _, err := r.client.Scrub(ctx, false, nothing); !errors.Is(err, control.ErrNoStore) {
		t.Errorf("%v, want ErrNoStore", err)
	}
}

// outcome is what a call of Scrub returned.
type outcome struct {
	got engine.Scrubbed
	err error
}

// scrub begins to scrub, or to follow, and returns when that is so.
func scrub(ctx context.Context, p *enginepod.Pod, repair bool) <-chan outcome {
	ended, began := make(chan outcome, 1), make(chan struct{})
	begin := sync.OnceFunc(func() { close(began) })
	go func() {
		got, err := p.Scrub(ctx, repair, func(engine.ScrubStep) { begin() })
		begin() // or it failed
		ended <- outcome{got, err}
	}()
	<-began
	return ended
}

// TestAScrubIsFollowed: who comes while it goes on has its result, and may ask for the
// repair at its end. It goes on when the first one does not wait any more.
func TestAScrubIsFollowed(t *testing.T) {
	r, g := scrubbedRig(t, true)
	open := g.shut()
	defer open()
	leaving, leave := context.WithCancel(ctx)
	first := scrub(leaving, r.pod, false)
	second, third := scrub(ctx, r.pod, true), scrub(ctx, r.pod, false)
	leave()
	if got := <-first; !errors.Is(got.err, context.Canceled) {
		t.Errorf("who left: %+v, want Canceled", got)
	}
	open()
	a, b := <-second, <-third
	if a.err != nil || !reflect.DeepEqual(a, b) {
		t.Fatalf("two followers of one scrub have\n%+v\n%+v", a, b)
	}
	if len(a.got.Damaged) != 1 || a.got.Damaged[0].Reason == "" {
		t.Errorf("damage is %+v, want one place with the reason why it was not repaired", a.got.Damaged)
	}
	// A scrub counts the holes of the base as read, which is all hole here.
	if read := r.engine().Store().ScrubStats().Bytes; int64(read) > a.got.ReadBytes-volumeBytes {
		t.Errorf("%d bytes were read, want the %d of one scrub", read, a.got.ReadBytes-volumeBytes)
	}
}

// TestAScrubThatNobodyFollows ends, and the next one is another.
func TestAScrubThatNobodyFollows(t *testing.T) {
	r, g := scrubbedRig(t, false)
	open := g.shut()
	defer open()
	leaving, leave := context.WithCancel(ctx)
	only := scrub(leaving, r.pod, false)
	leave()
	if got := <-only; !errors.Is(got.err, context.Canceled) {
		t.Errorf("who left: %+v, want Canceled", got)
	}
	next := scrub(ctx, r.pod, false)
	open()
	if got := <-next; got.err != nil || got.got.ReadBytes == 0 {
		t.Errorf("the next one: %+v", got)
	}
}

// TestAScrubEndsWithItsEngine: it is told, also to who would begin one meanwhile.
func TestAScrubEndsWithItsEngine(t *testing.T) {
	r, g := scrubbedRig(t, false)
	open := g.shut()
	defer open()
	cut := scrub(ctx, r.pod, false)
	closed := make(chan struct{})
	pod, stop := r.pod, r.stop
	go func() {
		stop()
		close(closed)
	}()
	if got := <-scrubUntilClosed(pod); !errors.Is(got.err, engine.ErrClosed) {
		t.Errorf("a scrub of an engine that ends: %+v, want ErrClosed", got)
	}
	open()
	if got := <-cut; !errors.Is(got.err, engine.ErrClosed) {
		t.Errorf("a scrub whose engine ended: %+v, want ErrClosed", got)
	}
	<-closed
}

// scrubUntilClosed follows the scrub that is under way, for a moment each time, until
// the engine has begun to end.
func scrubUntilClosed(p *enginepod.Pod) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		for {
			gone, leave := context.WithCancel(ctx)
			leave()
			if got, err := p.Scrub(gone, false, nothing); !errors.Is(err, context.Canceled) {
				done <- outcome{got, err}
				return
			}
		}
	}()
	return done
}
