package kv_test

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// cachedPages counts the pages of a file that are in the page cache, by
// mincore(2), which reads none: reading with RWF_NOWAIT starts readahead, and
// finds it done a little later.
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
	mapped, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mapped) }()
	resident := make([]byte, (len(mapped)+os.Getpagesize()-1)/os.Getpagesize())
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapped[0])), uintptr(len(mapped)), uintptr(unsafe.Pointer(&resident[0])))
	if errno != 0 {
		t.Fatal(errno)
	}
	for _, r := range resident {
		cached += int(r & 1)
	}
	return cached, len(resident)
}

// TestOpenReadsTheDisk: after a commit whose sync failed the page cache shows
// a state that the disk does not have. What is opened is the disk's.
func TestOpenReadsTheDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.db")
	db, err := kv.OpenBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	// Much more than the kernel reads ahead when a page of it is read.
	err = db.Update(func(tx kv.Tx) error { return tx.Put("b", []byte("k"), make([]byte, 48<<20)) })
	if err != nil {
		t.Fatal(err)
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
