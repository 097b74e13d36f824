package replication

import (
	"context"
	"errors"
	"testing"
)

// TestGateCloseWaitsForAppend: close returns only when the append that was in
// progress has ended, and none begins afterwards.
func TestGateCloseWaitsForAppend(t *testing.T) {
	g := newGate()
	ctx := context.Background()
	p, err := g.issue(ctx, "shop", volumeOne)
	must(t, err)
	must(t, p.enter())

	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := g.close(ended, "shop", ErrFenced); !errors.Is(err, context.Canceled) {
		t.Fatalf("close returned %v during an append, want it to wait", err)
	}
	closed := make(chan func(), 1)
	go func() {
		open, err := g.close(ctx, "shop", ErrFenced)
		if err != nil {
			t.Error(err)
		}
		closed <- open
	}()
	<-p.revoked
	select {
	case <-closed:
		t.Fatal("close returned during an append")
	default:
	}
	p.exit()
	open := <-closed
	if err := p.enter(); !errors.Is(err, ErrFenced) {
		t.Errorf("revoked pass enters: %v", err)
	}
	if _, err := g.issue(ctx, "shop", volumeOne); !errors.Is(err, ErrFenced) {
		t.Errorf("closed gate issues: %v", err)
	}
	if _, err := g.issue(ctx, "other", volumeTwo); err != nil {
		t.Errorf("another group is closed too: %v", err)
	}
	open()
	p.leave()
	again, err := g.issue(ctx, "shop", volumeOne)
	must(t, err)
	must(t, again.enter())
	again.exit()
}

// TestGateReplacesOlderStream: the newer stream of a volume waits for the
// append of the older, which then has no pass.
func TestGateReplacesOlderStream(t *testing.T) {
	g := newGate()
	ctx := context.Background()
	older, err := g.issue(ctx, "shop", volumeOne)
	must(t, err)
	must(t, older.enter())
	newer := make(chan *pass)
	go func() {
		p, err := g.issue(ctx, "shop", volumeOne)
		if err != nil {
			t.Error(err)
		}
		newer <- p
	}()
	<-older.revoked
	select {
	case <-newer:
		t.Fatal("two streams hold a volume's pass")
	default:
	}
	older.exit()
	p := <-newer
	if err := older.enter(); !errors.Is(err, ErrReplaced) {
		t.Errorf("older stream enters: %v", err)
	}
	older.leave()
	must(t, p.enter())
	p.exit()
}

// TestGateTurn: changes of a group's standing wait for each other.
func TestGateTurn(t *testing.T) {
	g := newGate()
	giveBack, err := g.take(context.Background(), "shop")
	must(t, err)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := g.take(ended, "shop"); !errors.Is(err, context.Canceled) {
		t.Errorf("second change did not wait: %v", err)
	}
	giveBack()
	giveBack, err = g.take(context.Background(), "shop")
	must(t, err)
	giveBack()
}
