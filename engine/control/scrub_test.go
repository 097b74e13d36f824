package control

import (
	"errors"
	"reflect"
	"testing"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/journal"
)

func TestAScrubsReportTravels(t *testing.T) {
	place := journal.CorruptError{File: "journal/0000000000000003.seg", Offset: 4160, What: "payload", Wanted: "crc 00000001", Found: "crc 00000002"}
	for name, want := range map[string]engine.Scrubbed{
		"sound": {ReadBytes: 1 << 40},
		"damaged": {ReadBytes: 9, Damaged: []journal.DamagedPlace{{CorruptError: place, Reason: "it is damaged at the peer, too"}, {CorruptError: journal.CorruptError{File: "base.img"}}},
			Repaired: []journal.RepairedPlace{{File: "base.img", Offset: 512, What: "sector"}}, Peer: "b", PeerErr: errors.New("site b did not answer")},
	} {
		if got := decodeScrubbed(encodeScrubbed(want)); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v\nwant %+v", name, got, want)
		}
	}
}

// TestAnOldEngineIsNotScrubbed: what it does not know is no error of its store.
func TestAnOldEngineIsNotScrubbed(t *testing.T) {
	got, err := serveOld(t, &oldEngine{}).Scrub(t.Context(), true, func(engine.ScrubStep) { t.Error("it tells how far it is") })
	if !errors.Is(err, ErrOutdated) {
		t.Errorf("got %+v, %v, want ErrOutdated", got, err)
	}
}
