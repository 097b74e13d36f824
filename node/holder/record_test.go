package holder

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

// A device that waits for its engine is handed to it also where the disk has not a byte
// left for the record of that; the record of another volume is refused as ever.
func TestRecordOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not tested: records on a full disk; needs root to mount one")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if _, err := loadRecords(dir); err != nil {
		t.Fatal(err)
	}
	r := record{Version: recordVersion, Volume: "vol", BlockBytes: 4096, Connection: 57, Identity: "longer than nothing", Lease: 1}
	if err := r.save(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "rest"), bytes.Repeat([]byte{1}, 64<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filled: %v", err)
	}
	for _, next := range []record{
		{Version: recordVersion, Volume: "vol", BlockBytes: 4096, Connection: 57, Identity: r.Identity, Lease: 10},
		{Version: recordVersion, Volume: "vol", BlockBytes: 512, Connection: 58, Lease: 1}, // a shorter one
	} {
		if err := next.save(dir); err != nil {
			t.Fatal(err)
		}
		if got, err := loadRecords(dir); err != nil || len(got) != 1 || got["vol"] != next {
			t.Errorf("read %+v, %v, want %+v", got, err, next)
		}
	}
	other := record{Version: recordVersion, Volume: "other", BlockBytes: 512}
	if err := other.save(dir); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("another volume's: %v, want ENOSPC", err)
	}
	if got, err := loadRecords(dir); err != nil || len(got) != 1 {
		t.Errorf("read %+v, %v", got, err)
	}
}

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
