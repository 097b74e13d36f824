package loop

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// requireLoop skips where loop devices cannot be attached.
func requireLoop(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not tested: loop devices; needs root")
	}
	f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("not tested: loop devices; needs /dev/loop-control: %v", err)
	}
	_ = f.Close()
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func newFile(t *testing.T, sizeBytes int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "backing")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, sizeBytes); err != nil {
		t.Fatal(err)
	}
	return path
}

func attach(t *testing.T, file string, config Config) Device {
	t.Helper()
	d, err := Attach(testContext(t), file, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Detach(testContext(t)); err != nil {
			t.Errorf("detach at the end: %v", err)
		}
	})
	return d
}

func TestLife(t *testing.T) {
	requireLoop(t)
	file := newFile(t, 8<<20)
	d := attach(t, file, Config{BlockBytes: 4096})
	again, err := Attach(testContext(t), file, Config{BlockBytes: 4096})
	if err != nil || again != d {
		t.Errorf("second attach: %+v, %v, want %+v", again, err, d)
	}
	if found, err := Find(file); err != nil || found != d {
		t.Errorf("find: %+v, %v, want %+v", found, err, d)
	}
	for attribute, want := range map[string]string{
		"queue/logical_block_size": "4096\n", "loop/dio": "1\n", "loop/partscan": "0\n", "ro": "0\n",
	} {
		got, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(d.Path()), attribute))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", attribute, got, err, want)
		}
	}
	if err := os.Truncate(file, 16<<20); err != nil {
		t.Fatal(err)
	}
	if size, err := d.SizeBytes(); err != nil || size != 8<<20 {
		t.Errorf("size before the resize: %d, %v", size, err)
	}
	if size, err := d.Resize(file); err != nil || size != 16<<20 {
		t.Errorf("resize: %d, %v, want %d", size, err, 16<<20)
	}
	if err := d.Detach(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(file); !errors.Is(err, ErrNotFound) {
		t.Errorf("find after detach: %v, want ErrNotFound", err)
	}
	if err := d.Detach(testContext(t)); err != nil {
		t.Errorf("second detach: %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	requireLoop(t)
	file := newFile(t, 1<<20)
	d := attach(t, file, Config{BlockBytes: 512, ReadOnly: true})
	if f, err := os.OpenFile(d.Path(), os.O_RDWR, 0); err == nil {
		_, err := f.WriteAt(bytes.Repeat([]byte{1}, 4096), 0)
		_ = f.Close()
		if err == nil {
			t.Error("a read-only device took a write")
		}
	}
	if content, err := os.ReadFile(file); err != nil || bytes.IndexByte(content, 1) >= 0 {
		t.Errorf("the file of a read-only device has changed (%v)", err)
	}
}

// TestAttachRace has many files attached at once: each gets a device of its own.
func TestAttachRace(t *testing.T) {
	requireLoop(t)
	const files = 12
	devices := make([]Device, files)
	errs := make([]error, files)
	var wg sync.WaitGroup
	for i := range files {
		file := newFile(t, 1<<20)
		wg.Go(func() { devices[i], errs[i] = Attach(context.Background(), file, Config{BlockBytes: 512}) })
	}
	wg.Wait()
	seen := make(map[int]bool)
	for i, d := range devices {
		if errs[i] != nil {
			t.Errorf("attach %d: %v", i, errs[i])
			continue
		}
		if seen[d.Number] {
			t.Errorf("%s was given out twice", d.Path())
		}
		seen[d.Number] = true
		if err := d.Detach(testContext(t)); err != nil {
			t.Error(err)
		}
	}
}

// TestDetachBusy: a claimed device is left alone, and one that somebody has
// open is waited for.
func TestDetachBusy(t *testing.T) {
	requireLoop(t)
	d := attach(t, newFile(t, 1<<20), Config{BlockBytes: 512})
	claim, err := os.OpenFile(d.Path(), os.O_RDONLY|syscall.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Detach(testContext(t)); !errors.Is(err, ErrBusy) {
		t.Errorf("detach a claimed device: %v, want ErrBusy", err)
	}
	if used, err := d.InUse(); err != nil || !used {
		t.Errorf("in use: %t, %v", used, err)
	}
	_ = claim.Close()
	if _, err := Get(d.Number); err != nil {
		t.Errorf("the refused detach had an effect: %v", err)
	}

	open, err := os.Open(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	brief, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if err := d.Detach(brief); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("detach an open device: %v, want a deadline", err)
	}
	_ = open.Close()
	if err := d.Detach(testContext(t)); err != nil {
		t.Errorf("detach once it was closed: %v", err)
	}
}

// TestDetachSparesNextOwner: a device that has been attached to another file
// since is not ours to detach.
func TestDetachSparesNextOwner(t *testing.T) {
	requireLoop(t)
	next := attach(t, newFile(t, 1<<20), Config{BlockBytes: 512})
	stale := Device{Number: next.Number, BackingFile: "/gone/backing"}
	if err := stale.Detach(testContext(t)); err != nil {
		t.Errorf("detach: %v", err)
	}
	if err := stale.Abandon(); err != nil {
		t.Errorf("abandon: %v", err)
	}
	if _, err := Get(next.Number); err != nil {
		t.Errorf("the next owner's device: %v", err)
	}
}

func TestAttachInvalid(t *testing.T) {
	for name, c := range map[string]struct {
		file  string
		block int
	}{
		"relative path": {"backing", 512}, "unclean path": {"/tmp/../backing", 512},
		"block of 256": {"/backing", 256}, "block of 8192": {"/backing", 8192}, "block of 1000": {"/backing", 1000},
	} {
		if _, err := Attach(context.Background(), c.file, Config{BlockBytes: c.block}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	requireLoop(t)
	missing := filepath.Join(t.TempDir(), "missing")
	if _, err := Attach(context.Background(), missing, Config{BlockBytes: 512}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

// TestAgreesWithLosetup lets another implementation say what is attached.
func TestAgreesWithLosetup(t *testing.T) {
	requireLoop(t)
	if _, err := exec.LookPath("losetup"); err != nil {
		t.Skip("not tested: agreement with losetup, which is not installed")
	}
	file := newFile(t, 1<<20)
	d := attach(t, file, Config{BlockBytes: 512})
	out, err := exec.Command("losetup", "--noheadings", "--output", "NAME", "--associated", file).Output()
	if err != nil || string(bytes.TrimSpace(out)) != d.Path() {
		t.Errorf("losetup finds %q, %v, want %s", out, err, d.Path())
	}
}
