package holder

import (
	"encoding/json"
	"reflect"
	"testing"
)

// FuzzRecord: what a holder takes from an earlier one is of the volume that its name
// says, and is written again as it was.
func FuzzRecord(f *testing.F) {
	seed, err := json.Marshal(record{Version: recordVersion, Volume: "vol", BlockBytes: 512, Connection: 57, Lease: 3})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, "vol")
	f.Add(seed, "../vol")
	f.Fuzz(func(t *testing.T, content []byte, volume string) {
		r, err := decodeRecord(content, volume)
		if err != nil {
			return
		}
		if r.Volume != volume || !volumeID.MatchString(volume) {
			t.Fatalf("record of %q is taken for %q", r.Volume, volume)
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeRecord(again, volume); err != nil || !reflect.DeepEqual(back, r) {
			t.Fatalf("%+v becomes %+v, %v", r, back, err)
		}
	})
}
