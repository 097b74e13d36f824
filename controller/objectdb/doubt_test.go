package objectdb_test

import (
	"errors"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/apitest"
	"github.com/lockstep-csi/lockstep/internal/kv"
)

// A process that cannot find out what became of a commit makes none any more, and so
// has to end: the next one reads what is so.
func TestRunEndsWhenTheOutcomeOfACommitStaysUnknown(t *testing.T) {
	w := newWorld(t, apitest.Start(t), crash{})
	db, err := w.open(t, 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := script[0].run(db); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- db.Run(t.Context()) }()
	w.fault.BreakWrite(1, apitest.Unsent, 1) // from now on nothing is answered
	if err := script[1].run(db); err == nil {
		t.Fatal("a commit without an answer is acknowledged")
	}
	w.fault.Break(0, apitest.Unsent, 0) // the server is there again
	select {
	case err := <-ended:
		if !errors.Is(err, kv.ErrPoisoned) {
			t.Errorf("Run ended with %v, want ErrPoisoned", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Run goes on with a database that nothing can be written to any more")
	}
}
