package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// newStore makes a closed store with three writes and returns its directory
// and the position of the second.
func newStore(t *testing.T) (dir string, second journal.Position) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "store")
	cfg := journal.Config{FS: vfs.OS{}, Dir: dir, SegmentBytes: journal.MinSegmentBytes}
	if err := journal.Create(cfg, journal.Spec{Volume: journal.VolumeID{1}, SizeBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	s, err := journal.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		pos, err := s.Write(bytes.Repeat([]byte{byte(i + 1)}, 4096), 0)
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			second = pos
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, second
}

// newJournalShell runs the real journal commands.
func newJournalShell() *shell {
	s := newShell("")
	linked := linkedRoles()
	s.roles.dumpJournal, s.roles.verifyJournal = linked.dumpJournal, linked.verifyJournal
	return s
}

func TestJournalDump(t *testing.T) {
	dir, second := newStore(t)
	s := newJournalShell()
	if got := s.must(t, "journal", "dump", dir); strings.Contains(got, "write") {
		t.Errorf("records without --records:\n%s", got)
	}
	if got := s.must(t, "journal", "dump", dir, "--records"); strings.Count(got, "write") != 3 {
		t.Errorf("want three writes:\n%s", got)
	}
	if got := s.must(t, "journal", "dump", dir, "--from", second.String()); strings.Count(got, "write") != 2 {
		t.Errorf("want two writes from %s on:\n%s", second, got)
	}
	lines := s.must(t, "journal", "dump", dir, "--records", "-o", "jsonl")
	if json := s.must(t, "journal", "dump", dir, "--records", "-o", "json"); json != lines {
		t.Errorf("json is not jsonl by another name:\n%s\n%s", json, lines)
	}
	for line := range strings.Lines(lines) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
}

func TestJournalVerify(t *testing.T) {
	dir, _ := newStore(t)
	s := newJournalShell()
	if got := s.must(t, "journal", "verify", dir); !strings.Contains(got, "sound") {
		t.Errorf("got %s", got)
	}
	segments, err := filepath.Glob(filepath.Join(dir, "journal", "*.seg"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("no segments: %v", err)
	}
	f, err := os.OpenFile(segments[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff}, 4096+64+100); err != nil { // in the first payload
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	got := s.run(t, "journal", "verify", dir)
	if got.exit != exitFailed || !strings.Contains(got.stdout, "DAMAGED") || !strings.Contains(got.stdout, filepath.Base(segments[0])) {
		t.Errorf("damaged: exit %d: %s%s", got.exit, got.stdout, got.stderr)
	}
	var report journal.Report
	if err := json.Unmarshal([]byte(s.run(t, "journal", "verify", dir, "-o", "json").stdout), &report); err != nil || len(report.Damage) == 0 {
		t.Fatalf("json: %v, damage %v", err, report.Damage)
	}
	if d := report.Damage[0]; d.File != "journal/"+filepath.Base(segments[0]) || d.Offset != 4096 || !strings.HasPrefix(d.Wanted, "crc ") || !strings.HasPrefix(d.Found, "crc ") || d.Kind != "corrupt" {
		t.Errorf("damage %+v", d)
	}
	if got := s.run(t, "journal", "dump", dir, "--records"); got.exit != exitFailed || !strings.Contains(got.stdout, "damage ") || strings.Count(got.stdout, "write") != 2 || !strings.Contains(got.stderr, "wanted crc") {
		t.Errorf("dump of damage: exit %d: %s%s", got.exit, got.stdout, got.stderr)
	}
	if got := s.run(t, "journal", "verify", t.TempDir()); got.exit != exitFailed || !strings.Contains(got.stderr, "not a lockstep store") {
		t.Errorf("no store: exit %d: %s", got.exit, got.stderr)
	}
}

func TestJournalInADirectoryOfItsOwn(t *testing.T) {
	root := t.TempDir()
	cfg := journal.Config{FS: vfs.OS{}, Dir: filepath.Join(root, "store"), JournalDir: filepath.Join(root, "fast"), SegmentBytes: journal.MinSegmentBytes}
	if err := journal.Create(cfg, journal.Spec{Volume: journal.VolumeID{1}, SizeBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	s := newJournalShell()
	for _, args := range [][]string{{"verify", cfg.Dir}, {"dump", cfg.Dir}, {"export", cfg.Dir, filepath.Join(root, "image")}, {"drain", cfg.Dir, "--yes"}} {
		if got := s.run(t, append([]string{"journal"}, args...)...); got.exit != exitFailed || !strings.Contains(got.stderr, "journal directory is missing") {
			t.Errorf("%s without it: exit %d: %s", args[0], got.exit, got.stderr)
		}
		s.must(t, append(append([]string{"journal"}, args...), "--journal-dir", cfg.JournalDir)...)
	}
}
