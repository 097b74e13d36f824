package site_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// modelSectors is how many sectors of each member are written to, each 256 KiB from the
// next.
const (
	modelSectors = 6
	modelStride  = 256 << 10
)

// modelImage is what the sectors of both members hold.
type modelImage [2][modelSectors]byte

// forkModel is what a group, its pinned points and its forks must hold.
type forkModel struct {
	t      *testing.T
	fs     *vfs.Mem
	s      *opened
	rng    *rand.Rand
	live   modelImage
	points map[string]modelImage // by pin
	forks  map[string]modelImage
	back   *modelImage // where undo returns to
	count  int
	did    map[string]int
}

// TestForksAgainstAModel makes random calls on a group and its forks: writes to both,
// points, forks, commits, rewinds, undo, and restarts, clean and killed.
func TestForksAgainstAModel(t *testing.T) {
	did := map[string]int{}
	for seed := range uint64(12) {
		m := &forkModel{t: t, fs: vfs.NewMem(), rng: rand.New(rand.NewPCG(seed, 20)), points: map[string]modelImage{}, forks: map[string]modelImage{}, did: did}
		m.s = mustOpen(t, m.fs)
		for _, id := range members {
			if err := m.s.create(id, nil); err != nil {
				t.Fatal(err)
			}
		}
		for step := range 120 {
			name, do := m.pick()
			if err := do(); err != nil {
				t.Fatalf("seed %d, step %d, %s: %v", seed, step, name, err)
			}
			m.check()
			if t.Failed() {
				t.Fatalf("seed %d, step %d: after %s", seed, step, name)
			}
		}
		mustClose(t, m.s)
	}
	if did["commit"] < 20 || did["undo"] < 10 || did["rewind"] < 5 || did["kill"] < 5 {
		t.Errorf("not all was tried: %v", did)
	}
}

func (m *forkModel) pick() (name string, do func() error) {
	steps := []struct {
		name   string
		weight int
		do     func() error
	}{
		{"write", 10, m.write}, {"write to a fork", 12, m.writeFork}, {"point", 3, m.point}, {"fork", 5, m.fork}, {"discard", 1, m.discard},
		{"commit", 4, m.commit}, {"rewind", 2, m.rewind}, {"undo", 2, m.undo}, {"keep", 2, m.keep}, {"restart", 1, m.restart}, {"kill", 1, m.kill},
	}
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	at := m.rng.IntN(total)
	i := slices.IndexFunc(steps, func(s struct {
		name   string
		weight int
		do     func() error
	}) bool {
		at -= s.weight
		return at < 0
	})
	m.count++
	return steps[i].name, steps[i].do
}

// some returns a key of a map, or "" if it is empty.
func (m *forkModel) some(of map[string]modelImage) string {
	names := slices.Sorted(maps.Keys(of))
	if len(names) == 0 {
		return ""
	}
	return names[m.rng.IntN(len(names))]
}

// change writes to a device, or discards, and enters that into an image.
func (m *forkModel) change(image *modelImage, device func(i int) engine.Device) error {
	i, sector, value := m.rng.IntN(2), m.rng.IntN(modelSectors), byte(1+m.rng.IntN(255))
	dev, off := device(i), int64(sector)*modelStride
	if dev == nil {
		return fmt.Errorf("member %d is not shown", i)
	}
	if m.rng.IntN(4) == 0 {
		image[i][sector] = 0
		return dev.Discard(context.Background(), off, 512)
	}
	image[i][sector] = value
	return dev.WriteAt(context.Background(), bytes.Repeat([]byte{value}, 512), off, m.rng.IntN(2) == 0)
}

func (m *forkModel) write() error {
	return m.change(&m.live, func(i int) engine.Device { return m.s.exports.device(members[i]) })
}

func (m *forkModel) writeFork() error {
	name := m.some(m.forks)
	if name == "" {
		return nil
	}
	image := m.forks[name]
	err := m.change(&image, func(i int) engine.Device { return m.s.fork(name, members[i]) })
	m.forks[name] = image
	return err
}

func (m *forkModel) point() error {
	pin := fmt.Sprintf("p%d", m.count)
	_, _, err := m.s.Groups().TakePoint(context.Background(), "shop", pin)
	m.points[pin] = m.live
	return err
}

func (m *forkModel) fork() error {
	pin := m.onPath()
	if pin == "" || len(m.forks) == 3 {
		return nil
	}
	name := fmt.Sprintf("f%d", m.count)
	_, err := m.s.CreateFork(context.Background(), site.NewFork{Name: name, Group: "shop", At: "pin:" + pin})
	m.forks[name] = m.points[pin]
	return err
}

// onPath returns a pinned point that the present can go back to, or "".
func (m *forkModel) onPath() string {
	if pin := m.some(m.points); pin != "" {
		if _, err := m.s.Groups().Select(context.Background(), "shop", "pin:"+pin); err == nil {
			return pin
		}
	}
	return ""
}

func (m *forkModel) discard() error {
	name := m.some(m.forks)
	if name == "" {
		return nil
	}
	delete(m.forks, name)
	return m.s.DiscardFork(context.Background(), name)
}

func (m *forkModel) commit() error {
	name := m.some(m.forks)
	if name == "" || m.back != nil {
		return nil
	}
	before := m.live
	if _, err := m.s.CommitFork(context.Background(), "shop", name, false); err != nil {
		return err
	}
	m.back, m.live = &before, m.forks[name]
	delete(m.forks, name)
	m.did["commit"]++
	return nil
}

func (m *forkModel) rewind() error {
	pin := m.onPath()
	if pin == "" || m.back != nil {
		return nil
	}
	before := m.live
	_, err := m.s.Groups().StartRewind(context.Background(), "shop", "pin:"+pin, false)
	m.back, m.live = &before, m.points[pin]
	m.did["rewind"]++
	return err
}

func (m *forkModel) undo() error {
	if m.back == nil {
		return nil
	}
	_, err := m.s.Groups().UndoRewind(context.Background(), "shop", false)
	m.live, m.back = *m.back, nil
	m.did["undo"]++
	return err
}

func (m *forkModel) keep() error {
	if m.back == nil {
		return nil
	}
	m.back = nil
	_, err := m.s.Groups().CommitRewind(context.Background(), "shop", false)
	return err
}

func (m *forkModel) restart() (err error) {
	if err = m.s.Close(); err == nil {
		m.s, err = openSite(m.fs)
	}
	return err
}

// kill goes on with the disk as a process leaves it that is killed: nothing of what was
// written is lost.
func (m *forkModel) kill() (err error) {
	left := m.fs.KillClone()
	if err = m.s.Close(); err == nil {
		m.fs = left
		m.s, err = openSite(m.fs)
	}
	m.did["kill"]++
	return err
}

// check compares all that there is with the model.
func (m *forkModel) check() {
	m.t.Helper()
	m.compare("production", m.live, func(i int) engine.Device { return m.s.exports.device(members[i]) })
	for name, image := range m.forks {
		m.compare(name, image, func(i int) engine.Device { return m.s.fork(name, members[i]) })
	}
	if all := m.s.ListForks(); len(all) != len(m.forks) {
		m.t.Errorf("%d forks are listed, want %d", len(all), len(m.forks))
	}
}

func (m *forkModel) compare(what string, want modelImage, device func(i int) engine.Device) {
	m.t.Helper()
	p := make([]byte, 512)
	for i := range want {
		dev := device(i)
		if dev == nil {
			m.t.Errorf("%s: member %d is not shown", what, i)
			continue
		}
		for sector, value := range want[i] {
			if err := dev.ReadAt(context.Background(), p, int64(sector)*modelStride); err != nil || p[0] != value || p[511] != value {
				m.t.Errorf("%s: sector %d of member %d holds %d, want %d (%v)", what, sector, i, p[0], value, err)
			}
		}
	}
}
