package group_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

const volumeBytes = 1 << 20

var errMember = errors.New("member fails")

// member is a real engine over a simulated disk that can be told to fail.
type member struct {
	*engine.Engine
	mu          sync.Mutex
	failPrepare error
	failCommit  error
	failFork    error
	failFlush   error
	slow        chan struct{} // Drain waits for it; nil: it does not
	drained     func()        // called at the end of Drain; nil: nothing is
}

func (m *member) Shut(round uint64, hold time.Duration) error {
	m.mu.Lock()
	err := m.failPrepare
	m.mu.Unlock()
	if err != nil {
		return err
	}
	return m.Engine.Shut(round, hold)
}

func (m *member) Drain(ctx context.Context) error {
	m.mu.Lock()
	slow := m.slow
	m.mu.Unlock()
	if m.drained != nil {
		defer m.drained()
	}
	if slow != nil {
		select {
		case <-slow:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return m.Engine.Drain(ctx)
}

func (m *member) Prepare(ctx context.Context, round uint64, hold time.Duration) error {
	if err := m.Shut(round, hold); err != nil {
		return err
	}
	return m.Drain(ctx)
}

// farMember is a member that does not show that it is in this process.
type farMember struct{ group.Member }

func (m *member) Dirty(context.Context) (bool, error)   { return m.Engine.Dirty(), nil }
func (m *member) Abort(_ context.Context, round uint64) { m.Engine.Abort(round) }

func (m *member) Commit(_ context.Context, round uint64, c journal.Checkpoint) (journal.Position, error) {
	if m.failCommit != nil {
		m.Engine.Abort(round)
		return journal.Position{}, m.failCommit
	}
	return m.Engine.Commit(round, c)
}

func (m *member) Flush(ctx context.Context) error {
	if m.failFlush != nil {
		return m.failFlush
	}
	return m.Engine.Flush(ctx)
}

// Forker.
func (m *member) Pin(_ context.Context, name string, at journal.Position) error {
	return m.Store().Pin(name, at)
}
func (m *member) Unpin(_ context.Context, name string) error { return m.Store().Unpin(name) }
func (m *member) Fork(_ context.Context, at journal.Position, reason string) error {
	if m.failFork != nil {
		return m.failFork
	}
	return m.ForkOnce(at, reason)
}

type tb interface {
	Helper()
	Fatal(...any)
	Error(...any)
	Cleanup(func())
}

func newMembers(t tb, n int) []*member {
	t.Helper()
	var out []*member
	for i := range n {
		cfg := journal.Config{FS: vfs.NewMem(), Dir: "/store", SegmentBytes: journal.MinSegmentBytes}
		if err := journal.Create(cfg, journal.Spec{Volume: journal.VolumeID{byte(i + 1)}, SizeBytes: volumeBytes}); err != nil {
			t.Fatal(err)
		}
		store, err := journal.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		})
		out = append(out, &member{Engine: engine.New(store)})
	}
	return out
}

func asMembers(ms []*member) []group.Member {
	var out []group.Member
	for _, m := range slices.Backward(ms) { // the coordinator sorts
		out = append(out, m)
	}
	return out
}

func asHistories(ms []*member) []group.History {
	var out []group.History
	for _, m := range ms {
		out = append(out, group.History{Volume: m.Volume(), Checkpoints: m.Store().Checkpoints(), Pins: m.Store().Pins()})
	}
	return out
}

func asForkers(ms []*member) []group.Forker {
	var out []group.Forker
	for _, m := range ms {
		out = append(out, m)
	}
	return out
}

func nobody(journal.VolumeID, time.Time, bool) bool { return false }
