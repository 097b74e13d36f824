package site_test

import (
	"context"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// A group's history is that of its members' stores, at once and after a restart.
func TestAGroupsHistoryIsItsMembers(t *testing.T) {
	fs := vfs.NewMem()
	s := prepared(t, fs)
	settings := quiet()
	settings.History, settings.Window = "1h:2h,2h:1d", 24*time.Hour
	if err := s.Groups().Modify(context.Background(), "shop", settings); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		for _, id := range members {
			store := s.exports.device(id).(*engine.Guarded).Device.(*engine.Engine).Store()
			if got := store.Retention(); got.History.String() != "1h:2h,2h:24h" || got.Window != settings.Window {
				t.Errorf("member %s keeps %+v, want %s", id, got, settings.History)
			}
		}
	}
	check()
	mustClose(t, s)
	s = mustOpen(t, fs)
	defer mustClose(t, s)
	check()
	settings.History = "2h:4h,4h:1d" // would drop checkpoints of the first tier
	if err := s.Groups().Modify(context.Background(), "shop", settings); err == nil {
		t.Error("a first tier that is longer than the checkpoint interval is taken")
	}
}
