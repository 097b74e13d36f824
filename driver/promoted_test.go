package driver

import (
	"context"
	"errors"
	"strings"
	"testing"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/driver/adminserver"
	"github.com/lockstep-csi/lockstep/internal/clock"
)

// TestAFailoverSaysThatItIsDone, also where CSI could not be told of all volumes: who takes
// it for failed would fail over again, to be told that this site is the primary already, or
// go back to the other site.
func TestAFailoverSaysThatItIsDone(t *testing.T) {
	s := newCSISite(t)
	data := s.mustCreate("data", "shop")
	if _, _, err := s.site.Groups().TakePoint(t.Context(), "shop", ""); err != nil {
		t.Fatal(err)
	}
	s.follow(2, data)
	untold := errors.New("the name belongs to another volume")
	admin := adminserver.New(adminserver.Config{Site: adminSite{site: s.site, known: s.controller}, Clock: clock.Wall{}, OwnedPin: func(string) bool { return false },
		Promoted: func(context.Context, string) error { return untold }})
	_, err := admin.Failover(t.Context(), &adminv1.FailoverRequest{Group: "shop", At: "latest"})
	if err == nil || !strings.Contains(err.Error(), untold.Error()) || !strings.Contains(err.Error(), "this site is the primary of group shop now") {
		t.Errorf("failover: %v, want to be told that it is done, and what is left", err)
	}
}
