package enginepod_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/enginepod"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
)

// patience is a round's time where none of its members is to be late.
const patience = 5 * time.Second

func openPod(r *rig) (*enginepod.Pod, error) {
	return enginepod.Open(enginepod.Config{Volume: r.id, Dir: "/backing", FS: r.fs})
}

// A client is what a coordinator and an operation ask of a member.
var (
	_ group.Member = (*control.Client)(nil)
	_ group.Forker = (*control.Client)(nil)
)

func newGroup(t *testing.T, n int, settings group.Settings) ([]*rig, *group.Coordinator) {
	t.Helper()
	net := newNetwork()
	var rigs []*rig
	var members []group.Member
	for i := range n {
		r := newRig(t, net, byte(i+1))
		r.order(r.primary(1, 1))
		rigs = append(rigs, r)
		members = append(members, r.client)
	}
	if settings.BarrierTimeout == 0 {
		settings.BarrierTimeout = patience
	}
	c := group.NewCoordinator("shop", settings.WithDefaults(), 0, time.Time{}, clock.Wall{})
	c.SetMembers(members)
	return rigs, c
}

func points(t *testing.T, rigs []*rig) []group.Point {
	t.Helper()
	var histories []group.History
	for _, r := range rigs {
		held, err := r.client.Checkpoints(ctx, "shop", 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		histories = append(histories, group.History{Volume: r.id, Checkpoints: held})
	}
	return group.Points("shop", histories, func(journal.VolumeID, time.Time, bool) bool { return true })
}

// An engine is told which point its part is to be held of, and not the place of it alone.
func TestAnEngineHoldsThePointThatWasChosen(t *testing.T) {
	rigs, c := newGroup(t, 1, group.Settings{})
	taken, err := c.Take(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r := rigs[0]
	at := taken.Positions[r.id]
	if err := r.client.Hold(ctx, "other", at, taken.Number+1, time.Minute); !errors.Is(err, journal.ErrHorizon) {
		t.Errorf("a point that is not there is held with %v, want ErrHorizon", err)
	}
	if err := errors.Join(r.client.Hold(ctx, "point", at, taken.Number, time.Minute), r.client.Hold(ctx, "position", at, 0, time.Minute)); err != nil {
		t.Error(err)
	}
}

// The promise of the whole design, with members that are other processes: a
// chain of writes, each issued after the last was acknowledged, over all
// members, is a prefix at every recovery point.
func TestEveryPointHoldsAPrefixOfEveryChain(t *testing.T) {
	const chains, rounds = 4, 10
	rigs, c := newGroup(t, 3, group.Settings{})
	writing, stop := context.WithCancel(ctx)
	var writers sync.WaitGroup
	for chain := range chains {
		writers.Go(func() {
			for link := uint64(0); writing.Err() == nil; link++ {
				p := make([]byte, 512)
				binary.LittleEndian.PutUint64(p, link+1)
				if err := rigs[link%3].engine().WriteAt(ctx, p, int64(chain)*512, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range rounds {
		if _, err := c.Take(ctx); err != nil {
			t.Error(err)
		}
	}
	stop()
	writers.Wait()
	held := points(t, rigs)
	if len(held) != rounds {
		t.Fatalf("%d recovery points, want %d", len(held), rounds)
	}
	for _, p := range held {
		for chain := range chains {
			checkChain(t, rigs, p, chain)
		}
	}
}

// checkChain checks that a point holds a prefix of one chain: going around,
// each member has the newest of its own links that is not beyond the newest of
// all.
func checkChain(t *testing.T, rigs []*rig, p group.Point, chain int) {
	t.Helper()
	links := make([]uint64, len(rigs))
	for i, r := range rigs {
		view, err := r.engine().Store().View(p.Members[r.id])
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 512)
		if err := errors.Join(view.ReadAt(b, int64(chain)*512), view.Close()); err != nil {
			t.Fatal(err)
		}
		links[i] = binary.LittleEndian.Uint64(b)
	}
	last := max(links[0], links[1], links[2])
	for i, got := range links {
		want := uint64(0)
		for link := last; link > 0; link-- {
			if int((link-1)%3) == i {
				want = link
				break
			}
		}
		if got != want {
			t.Errorf("point %d, chain %d: links %v are no prefix: member %d has %d, want %d", p.Checkpoint, chain, links, i, got, want)
		}
	}
}

// Whoever dies in the middle of a round, writes go on after the time-out.
func TestAnAbandonedRoundHoldsNoWrites(t *testing.T) {
	rigs, _ := newGroup(t, 1, group.Settings{})
	const hold = 20 * time.Millisecond
	if err := rigs[0].client.Prepare(ctx, 7, hold); err != nil {
		t.Fatal(err)
	}
	// The coordinator is gone; nobody commits or aborts.
	write(t, rigs[0].engine(), 0, 1)
	_, err := rigs[0].client.Commit(ctx, 7, journal.Checkpoint{Number: 1, Time: time.Now(), CheckpointInfo: journal.CheckpointInfo{Group: "shop", Members: []journal.VolumeID{rigs[0].id}}})
	if !errors.Is(err, engine.ErrBarrierLost) {
		t.Errorf("commit after the time-out: %v, want ErrBarrierLost", err)
	}
	if err := rigs[0].client.Prepare(ctx, 8, time.Minute); err == nil {
		t.Error("a hold of a minute was accepted")
	}
}

func TestAMemberThatIsGoneCostsThePointAndNoWrites(t *testing.T) {
	rigs, c := newGroup(t, 3, group.Settings{BarrierTimeout: 50 * time.Millisecond})
	rigs[1].stop()
	if _, err := c.Take(ctx); !errors.Is(err, group.ErrBarrier) {
		t.Fatalf("take: %v, want ErrBarrier", err)
	}
	write(t, rigs[0].engine(), 0, 1)
	write(t, rigs[2].engine(), 0, 1)
	rigs[1].start()
	rigs[1].order(rigs[1].primary(1, 1))
	c.Configure(group.Settings{BarrierTimeout: patience}.WithDefaults())
	c.SetMembers([]group.Member{rigs[0].client, rigs[1].client, rigs[2].client})
	taken, err := c.Take(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if held := points(t, rigs); len(held) != 1 || held[0].Checkpoint != taken.Number {
		t.Errorf("points %+v, want the one taken", held)
	}
}

func TestAForkIsMadeOnce(t *testing.T) {
	rigs, c := newGroup(t, 1, group.Settings{})
	r := rigs[0]
	write(t, r.engine(), 0, 1)
	taken, err := c.Take(ctx)
	if err != nil {
		t.Fatal(err)
	}
	write(t, r.engine(), 0, 2)
	o := r.primary(1, 2)
	o.Writable = false
	r.order(o)
	for range 2 {
		if err := r.client.Fork(ctx, taken.Positions[r.id], "rewind x"); err != nil {
			t.Fatal(err)
		}
	}
	if lines := r.engine().Store().Timelines(); len(lines) != 2 {
		t.Errorf("%d timelines, want the root and one fork", len(lines))
	}
	p := make([]byte, 512)
	if err := r.engine().ReadAt(ctx, p, 0); err != nil || !bytes.Equal(p, bytes.Repeat([]byte{1}, 512)) {
		t.Errorf("after the fork: %d…, %v", p[0], err)
	}
}
