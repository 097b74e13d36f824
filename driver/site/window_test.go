package site_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// lines is a log that may be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

// A history that was given up and is then wanted is told of once, and so is that
// there is enough of it again; one that is young is not told of.
func TestShortHistoryIsTold(t *testing.T) {
	ctx := context.Background()
	a := &aging{t: t, clock: clock.NewManual(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))}
	said, ex := &lines{}, &exports{}
	s, err := site.Open(ctx, site.Config{Name: "a", Root: "/root", FS: vfs.NewMem(), Exports: ex, SegmentBytes: journal.MinSegmentBytes,
		Clock: a.clock, Log: slog.New(slog.NewTextHandler(said, nil))})
	if err != nil {
		t.Fatal(err)
	}
	a.opened = &opened{s, ex}
	defer mustClose(t, a.opened)
	wanting := func(window time.Duration) group.Settings {
		return group.Settings{CheckpointInterval: 24 * time.Hour, BarrierTimeout: 5 * time.Second, Window: window}.WithDefaults()
	}
	const month = 30 * 24 * time.Hour
	for _, id := range members {
		if err := a.CreateVolume(ctx, site.NewVolume{ID: id, Name: id.String(), SizeBytes: volumeBytes, Group: "shop", Settings: wanting(month)}); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(what string, short, enough int) {
		t.Helper()
		for range 2 {
			a.Groups().LookAtWindows(ctx)
		}
		if s, e := said.count("history is shorter than wanted"), said.count("history is as long as wanted again"); s != short || e != enough {
			t.Fatalf("%s: told %d times that it is short and %d times that it is enough, want %d and %d", what, s, e, short, enough)
		}
	}
	want := func(window time.Duration) {
		t.Helper()
		if err := a.Groups().Modify(ctx, "shop", wanting(window)); err != nil {
			t.Fatal(err)
		}
	}
	expect("without a point", 0, 0)
	for range 10 {
		a.step(members...)
	}
	a.pass(30 * time.Hour)
	a.step(members...)
	expect("a young group", 0, 0)
	want(24 * time.Hour)
	for _, id := range members {
		a.thin(id)
		if a.store(id).Horizon().Seq == 0 {
			t.Fatal("no history was given up")
		}
	}
	expect("as long as wanted", 0, 0)
	want(month)
	expect("more is wanted than there is", 1, 0)
	want(24 * time.Hour)
	expect("what there is is enough", 1, 1)
}
