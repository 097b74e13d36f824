package driver

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/node/holder"
)

// TestAHolderThatIsGoneIsTold: devices work on without it, so that nothing else says that
// the next start of the site is their end.
func TestAHolderThatIsGoneIsTold(t *testing.T) {
	l, err := net.Listen("unixpacket", filepath.Join(t.TempDir(), "holder.sock"))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s := newCSISite(t)
	s.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	if s.holder, err = holder.Dial(t.Context(), l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.holder.Close() })
	there, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	gone := func() float64 {
		t.Helper()
		families, err := newRegistry(s.site, s.holderGone()).Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "lockstep_site_holder_gone" {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		t.Fatal("no metric tells of the holder")
		return 0
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	s.awaitHolder(ended)
	if gone() != 0 || log.Len() > 0 {
		t.Errorf("a holder that is there is told of as gone: %s", &log)
	}
	if err := there.Close(); err != nil {
		t.Fatal(err)
	}
	s.awaitHolder(t.Context())
	if gone() != 1 || !strings.Contains(log.String(), "holder is gone") {
		t.Errorf("a holder that is gone is not told of: %q", &log)
	}
	_ = l.Close()
}
