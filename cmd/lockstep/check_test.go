package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
)

// soundHost has everything.
func soundHost() host {
	return host{
		uid:      func() int { return 0 },
		release:  func() (string, error) { return "6.18.5-cloud", nil },
		openable: func(string) error { return nil },
		tool:     func(name string) (string, error) { return "/usr/sbin/" + name, nil },
		file:     func(string) (string, error) { return "Y", nil },
	}
}

func TestCheckHost(t *testing.T) {
	without := func(change func(*host)) host {
		h := soundHost()
		change(&h)
		return h
	}
	cases := map[string]struct {
		host host
		exit int
		says string
	}{
		"sound":     {soundHost(), exitOK, ""},
		"not root":  {without(func(h *host) { h.uid = func() int { return 1000 } }), exitFailed, "lacks: root"},
		"no device": {without(func(h *host) { h.openable = func(string) error { return fs.ErrNotExist } }), exitFailed, "lacks: /dev/fuse, /dev/loop-control"},
		"no tools":  {without(func(h *host) { h.tool = func(string) (string, error) { return "", fs.ErrNotExist } }), exitFailed, "lacks: mount, mkfs.ext4"},
		// Old kernels serve, with less.
		"old kernel": {without(func(h *host) { h.release = func() (string, error) { return "6.8.0", nil } }), exitOK, ""},
		"no io_uring": {without(func(h *host) {
			h.file = func(string) (string, error) { return "", fs.ErrNotExist }
		}), exitOK, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newShell("")
			s.host = c.host
			got := s.run(t, "check")
			if got.exit != c.exit || !strings.Contains(got.stderr, c.says) {
				t.Errorf("exit %d, want %d: %q, want %q in it", got.exit, c.exit, got.stderr, c.says)
			}
			golden(t, "check_"+strings.ReplaceAll(name, " ", "_"), got.stdout)
		})
	}
}

func TestCheckThisHost(t *testing.T) {
	for _, f := range thisHost().check().Checks {
		if f.Name == "" || f.Found == "" || f.Remedy == "" {
			t.Errorf("an incomplete finding: %+v", f)
		}
	}
}

func TestJournalCommands(t *testing.T) {
	s := newShell("")
	var options dumpOptions
	s.roles.dumpJournal = func(_ context.Context, dir string, w io.Writer, o dumpOptions) error {
		options = o
		_, err := io.WriteString(w, "records of "+dir+"\n")
		return err
	}
	if got := s.must(t, "journal", "dump", "/store", "--timeline", "2", "--from", "3", "--to", "9", "--limit", "4", "--checkpoints", "--data", "hex", "-o", "jsonl"); got != "records of /store\n" {
		t.Errorf("got %q", got)
	}
	if want := (dumpOptions{Timeline: 2, From: 3, To: 9, Limit: 4, CheckpointsOnly: true, Data: dumpHexData, JSONL: true}); options != want {
		t.Errorf("got %+v, want %+v", options, want)
	}

	outcome := verifyOutcome{Fields: []outcomeField{{"Records", "12"}}, Document: map[string]int{"records": 12}}
	s.roles.verifyJournal = func(context.Context, string) (verifyOutcome, error) { return outcome, nil }
	if got := s.must(t, "journal", "verify", "/store"); got != "Store     /store\nState     sound\nRecords   12\n" {
		t.Errorf("got %q", got)
	}
	outcome.Problems = []string{"segment 3 at 4096: crc 1, want 2"}
	got := s.run(t, "journal", "verify", "/store")
	if got.exit != exitFailed || !strings.Contains(got.stdout, "DAMAGED") || !strings.Contains(got.stdout, "segment 3 at 4096") {
		t.Errorf("damaged: exit %d: %q", got.exit, got.stdout)
	}
	s.roles.verifyJournal = func(context.Context, string) (verifyOutcome, error) {
		return verifyOutcome{}, errors.New("open store: locked")
	}
	if got := s.run(t, "journal", "verify", "/store"); got.exit != exitFailed || got.stdout != "" {
		t.Errorf("unreadable: exit %d: %q", got.exit, got.stdout)
	}
}
