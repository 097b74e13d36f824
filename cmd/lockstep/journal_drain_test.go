package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

func TestJournalDrain(t *testing.T) {
	store, s := newOfflineStore(t), newShell("")
	if got := s.run(t, "journal", "drain", store.dir); got.exit != exitUsage || !strings.Contains(got.stderr, "--yes") {
		t.Errorf("without --yes: exit %d: %s", got.exit, got.stderr)
	}
	var plan drainDocument
	if err := json.Unmarshal([]byte(s.must(t, "journal", "drain", store.dir, "--dry-run", "-o", "json")), &plan); err != nil {
		t.Fatal(err)
	}
	if plan.Drained || plan.Checkpoints < 3 || plan.Oldest == nil || !plan.Newest.Equal(store.tip().time) || plan.JournalBytes == 0 || plan.Tip != store.tip().at.String() {
		t.Errorf("dry run: %+v", plan)
	}
	image := filepath.Join(store.dir, "base.img")
	if sumOf(t, image) == store.tip().sum {
		t.Fatal("a dry run has drained it")
	}
	if got := s.must(t, "journal", "drain", store.dir, "--yes", "-o", "name"); got != image+"\n" {
		t.Errorf("printed %q, want the image", got)
	}
	if sumOf(t, image) != store.tip().sum {
		t.Error("the image is not the volume")
	}
	if left := must(os.ReadDir(filepath.Join(store.dir, "journal")))(t); len(left) != 0 {
		t.Errorf("the journal still has %v", left)
	}
	if got := s.must(t, "journal", "verify", store.dir); !strings.Contains(got, "sound") {
		t.Errorf("the drained store: %s", got)
	}
	if got := s.must(t, "journal", "drain", store.dir, "--yes"); !strings.Contains(got, "no recovery points") {
		t.Errorf("again: %s", got)
	}
	// One can come back.
	open, err := journal.Open(journal.Config{FS: vfs.OS{}, Dir: store.dir})
	if err != nil {
		t.Fatal(err)
	}
	if tip := open.Tip(); tip != store.tip().at {
		t.Errorf("tip %s, want %s", tip, store.tip().at)
	}
	_, err = open.Write(make([]byte, 4096), 0)
	if err = errors.Join(err, open.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestJournalDrainAsks: what others rely on needs more than a yes.
func TestJournalDrainAsks(t *testing.T) {
	store, s := newOfflineStore(t), newShell("")
	open, err := journal.Open(journal.Config{FS: vfs.OS{}, Dir: store.dir})
	if err != nil {
		t.Fatal(err)
	}
	err = open.Pin("nightly", store.moments[1].at)
	if err == nil {
		_, err = open.Fork(store.moments[1].at, "rewind")
	}
	if err = errors.Join(err, open.Close()); err != nil {
		t.Fatal(err)
	}
	if got := s.run(t, "journal", "drain", store.dir, "--yes"); got.exit != exitFailed || !strings.Contains(got.stderr, "has 1 pins (nightly)") || !strings.Contains(got.stderr, "--force") {
		t.Errorf("with a pin: exit %d: %s", got.exit, got.stderr)
	}
	s.terminals = terminals{stdin: true, stderr: true}
	s.stdin = strings.NewReader("n\n")
	if got := s.run(t, "journal", "drain", store.dir, "--force"); got.exit != exitFailed || !strings.Contains(got.stderr, "gone then, for good") || !strings.Contains(got.stderr, "1 other timelines") {
		t.Errorf("answered no: exit %d: %s", got.exit, got.stderr)
	}
	if horizonOf(t, store.dir) == store.moments[1].at {
		t.Fatal("drained without a yes")
	}
	s.stdin = strings.NewReader("y\n")
	s.must(t, "journal", "drain", store.dir, "--force")
	if sumOf(t, filepath.Join(store.dir, "base.img")) != store.moments[1].sum {
		t.Error("the image is not the volume that was rewound")
	}
}
