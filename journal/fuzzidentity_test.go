package journal

import (
	"encoding/json"
	"reflect"
	"testing"
)

// FuzzVolumeJSON takes a store's and an overlay's, and gives any fields their right
// checksum.
func FuzzVolumeJSON(f *testing.F) {
	seedCorpus(f, "volume*.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := decodeIdentity(b)
		if err != nil {
			if json.Unmarshal(b, &id) != nil {
				return
			}
			if b, err = id.encode(); err != nil {
				return // a year that JSON has no form for
			}
			if id, err = decodeIdentity(b); err != nil {
				return
			}
		}
		_, origin := ParseVolumeID(id.Origin)
		_, at := ParsePosition(id.OriginAt)
		overlaid := origin == nil && at == nil
		if id.Volume.IsZero() || id.Version < 1 || id.Version > StoreFormatVersion || id.Checksum != id.checksum() ||
			overlaid != (id.Format == overlayFormat) || overlaid && id.Journal != "" {
			t.Fatalf("accepted %+v", id)
		}
	})
}

// FuzzJournalJSON is FuzzVolumeJSON for the identity of a journal with a directory of
// its own.
func FuzzJournalJSON(f *testing.F) {
	seedCorpus(f, "journal.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := decodeJournalIdentity(b)
		if err != nil {
			if json.Unmarshal(b, &id) != nil {
				return
			}
			if b, err = id.encode(); err != nil {
				t.Fatal(err)
			}
			if id, err = decodeJournalIdentity(b); err != nil {
				return
			}
		}
		again, err := id.encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeJournalIdentity(again); err != nil || !reflect.DeepEqual(back, id) || id.Volume.IsZero() || len(id.Journal) != 2*journalIDBytes {
			t.Fatalf("%+v became %+v, %v", id, back, err)
		}
	})
}

// FuzzNames: of the names of files, and of what people type, only that is accepted
// which has one meaning.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{"0000000000000007.seg", "0000000000000007-1.rew", runKey{goldenLine, 16, 2}.name(), Position{goldenLine, 42}.String(), goldenVolume.String(), "1/2", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if id, ok := parseSegmentName(text); ok && (id == 0 || id > maxSegmentID) {
			t.Fatalf("%q is segment %d", text, id)
		}
		if k, ok := parseRunName(text); ok && k.name() != journalDir+"/"+text {
			t.Fatalf("%q is run %+v", text, k)
		}
		if p, err := ParsePosition(text); err == nil {
			if again, err := ParsePosition(p.String()); err != nil || again != p {
				t.Fatalf("%q is %s, which is %s, %v", text, p, again, err)
			}
		}
		if id, err := ParseVolumeID(text); err == nil {
			if again, err := ParseVolumeID(id.String()); err != nil || again != id {
				t.Fatalf("%q is %s, which is %s, %v", text, id, again, err)
			}
		}
	})
}
