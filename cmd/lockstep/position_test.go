package main

import (
	"testing"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

// What a site's command prints of a position, an offline command takes; also where
// the id of its timeline is more than a number of JSON can hold.
func TestPositionsAreTakenAsTheyArePrinted(t *testing.T) {
	const timeline, seq = 15168517272161230467, 5120
	m := &adminv1.Position{Timeline: timeline, Seq: seq}
	for _, text := range []string{positionText(m), *positionOf(m)} {
		if at, err := parseStoreAt(text); err != nil || at.position != (journal.Position{Timeline: timeline, Seq: seq}) {
			t.Errorf("%s is taken as %v, %v", text, at.position, err)
		}
	}
	if got := positionText(nil); got != unknown {
		t.Errorf("no position is %q", got)
	}
	if positionOf(nil) != nil {
		t.Error("no position is one in a document")
	}
}
