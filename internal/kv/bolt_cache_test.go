package kv_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// cachedPages counts the pages of a file that are in the page cache.
func cachedPages(t *testing.T, path string) (cached, all int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	all = int(info.Size()) / os.Getpagesize()
	for i := range all {
		_, err := unix.Preadv2(int(f.Fd()), [][]byte{make([]byte, 1)}, int64(i*os.Getpagesize()), unix.RWF_NOWAIT)
		switch {
		case err == nil:
			cached++
		case errors.Is(err, unix.EOPNOTSUPP):
			t.Skip("cached pages are not counted: the file system has no RWF_NOWAIT")
		case !errors.Is(err, unix.EAGAIN):
			t.Fatal(err)
		}
	}
	return cached, all
}

// TestOpenReadsTheDisk: after a commit whose sync failed the page cache shows
// a state that the disk does not have. What is opened is the disk's.
func TestOpenReadsTheDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.db")
	db, err := kv.OpenBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 32 { // more than the kernel reads ahead when the file is opened
		err := db.Update(func(tx kv.Tx) error { return tx.Put("b", []byte{byte(i)}, make([]byte, 1<<20)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if cached, all := cachedPages(t, path); cached < all/2 {
		t.Skipf("not tested that cached pages are dropped: %d of %d are in the cache", cached, all)
	}
	db, err = kv.OpenBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if cached, all := cachedPages(t, path); cached > all/2 {
		t.Errorf("%d of %d pages were not read from the disk again", cached, all)
	}
}
