package site_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// TestCrashAnywhereInForgettingAFork cuts the power at every change of the disk while a
// fork that was given up is removed from the list: it is there as it was, or its
// removal goes on.
func TestCrashAnywhereInForgettingAFork(t *testing.T) {
	ctx := context.Background()
	crashed := 0
	for k := int64(1); ; k++ {
		mem := vfs.NewMem()
		fault := vfs.NewFault(mem)
		mustClose(t, prepared(t, fault))
		now := clock.NewManual(time.Now())
		s := openAt(t, fault, now)
		if _, err := s.CreateFork(ctx, site.NewFork{Name: "x", Group: "shop", At: "pin:before", MaxAge: time.Hour}); err != nil {
			t.Fatal(err)
		}
		now.Advance(2 * time.Hour)
		s.TendForks(ctx)
		if f := s.theFork("x"); f.State != site.ForkGivenUp {
			t.Fatalf("%+v", f)
		}
		chance := rand.New(rand.NewPCG(uint64(k), 17))
		fault.CrashTornAt(fault.Count()+k, chance)
		err := s.DiscardFork(ctx, "x")
		_ = s.Close() // of no use once the disk is gone
		if !fault.Crashed() {
			if err != nil {
				t.Fatalf("without a crash: %v", err)
			}
			break
		}
		crashed++
		for _, disk := range []*vfs.Mem{mem.KillClone(), mem.Crash(chance)} {
			after := openAt(t, disk, now)
			after.TendForks(ctx)
			if f := after.theFork("x"); f.Name != "" && f.State != site.ForkGivenUp {
				t.Errorf("k=%d: %+v", k, f)
			}
			after.expectNothingOf(t, disk, "x")
			mustClose(t, after)
		}
	}
	if crashed < 2 {
		t.Fatalf("only %d places to crash at", crashed)
	}
}
