package keylock

import (
	"context"
	"errors"
	"sync"
	"testing"
)

func TestLockExcludes(t *testing.T) {
	var set Set
	var wg sync.WaitGroup
	counters := map[string]*int{"a": new(int), "b": new(int)}
	const rounds = 2000
	for range 8 {
		wg.Go(func() {
			for i := range rounds {
				keys := []string{"a", "b"}
				if i%2 == 0 {
					keys = []string{"b", "a", "a"} // order and repetition do not matter
				}
				unlock, err := set.Lock(context.Background(), keys...)
				if err != nil {
					t.Error(err)
					return
				}
				*counters["a"]++ // the race detector sees a lock that does not exclude
				*counters["b"]++
				unlock()
				unlock()
			}
		})
	}
	wg.Wait()
	if *counters["a"] != 8*rounds || *counters["b"] != 8*rounds {
		t.Errorf("counted %d and %d, want %d", *counters["a"], *counters["b"], 8*rounds)
	}
	if len(set.held) != 0 {
		t.Errorf("%d keys left behind", len(set.held))
	}
}

func TestLockHonoursContext(t *testing.T) {
	var set Set
	unlock, err := set.Lock(context.Background(), "b")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error)
	go func() {
		_, err := set.Lock(ctx, "a", "b")
		failed <- err
	}()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("Lock = %v, want context.Canceled", err)
	}
	// "a" must have been given back, and "b" must still be ours to give.
	unlockA, err := set.Lock(context.Background(), "a")
	if err != nil {
		t.Fatal(err)
	}
	unlockA()
	unlock()
	if len(set.held) != 0 {
		t.Errorf("%d keys left behind", len(set.held))
	}
}

func TestTryLockTakesAllOrNothing(t *testing.T) {
	var set Set
	unlock, free := set.TryLock("a", "b", "a")
	if !free {
		t.Fatal("nobody has the keys")
	}
	if _, free := set.TryLock("c", "b"); free {
		t.Error("took a key that somebody has")
	}
	other, free := set.TryLock("c")
	if !free {
		t.Fatal("a try in vain kept a key")
	}
	turn := make(chan error)
	go func() {
		unlock, err := set.Lock(context.Background(), "a")
		if err == nil {
			unlock()
		}
		turn <- err
	}()
	unlock()
	unlock()
	other()
	if err := <-turn; err != nil {
		t.Error(err)
	}
	if len(set.held) != 0 {
		t.Errorf("%d keys left behind", len(set.held))
	}
}

func TestLockServesInOrder(t *testing.T) {
	var set Set
	unlock, _ := set.Lock(context.Background(), "a")
	const waiters = 5
	turns := make([]chan struct{}, waiters)
	for i := range turns {
		turns[i] = set.enqueue("a")
	}
	unlock()
	for i, turn := range turns {
		<-turn
		for _, later := range turns[i+1:] {
			select {
			case <-later:
				t.Fatalf("a later waiter than %d got its turn", i)
			default:
			}
		}
		set.unlock([]string{"a"})
	}
}
