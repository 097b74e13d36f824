package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func usedBytes(t *testing.T, name string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// namesIn lists a directory.
func namesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestCreateFileReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "image")
	if err := os.WriteFile(name, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateFile(name, false); !errors.Is(err, ErrExists) {
		t.Errorf("over a file: %v", err)
	}
	if _, err := CreateFile(dir, true); err == nil {
		t.Error("over a directory")
	}
	// One that comes to be while the image is written is kept, too.
	late := filepath.Join(dir, "late")
	f, err := CreateFile(late, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(late, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); !errors.Is(err, ErrExists) {
		t.Errorf("over a file that came meanwhile: %v", err)
	}
	if content, err := os.ReadFile(late); err != nil || string(content) != "mine" {
		t.Errorf("it holds %q, %v", content, err)
	}
	if names := namesIn(t, dir); len(names) != 2 {
		t.Errorf("left: %q", names)
	}
}

func TestCreateFileByForce(t *testing.T) {
	dir := t.TempDir()
	name, link := filepath.Join(dir, "image"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(name, []byte("old"), 0o600), os.Symlink("image", link)); err != nil {
		t.Fatal(err)
	}
	f, err := CreateFile(link, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.file.WriteString("new"); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(name); err != nil || string(content) != "old" {
		t.Errorf("before the end it holds %q, %v", content, err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(name); err != nil || string(content) != "new" {
		t.Errorf("it holds %q, %v", content, err)
	}
	if target, err := os.Readlink(link); err != nil || target != "image" {
		t.Errorf("the link is %q, %v", target, err)
	}
	if names := namesIn(t, dir); len(names) != 2 {
		t.Errorf("left: %q", names)
	}
}

// TestOneWriter: a second export to the same file is refused, and what a killed
// one has left is taken over.
func TestOneWriter(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "image")
	if err := os.WriteFile(filepath.Join(dir, ".image.lockstep-partial"), []byte("left by a process that was killed"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := CreateFile(name, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateFile(name, false); err == nil {
		t.Error("two write one file")
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(name); err != nil || info.Size() != 0 {
		t.Errorf("what was left is in the new file: %d bytes, %v", info.Size(), err)
	}
}

// TestInterruptedCopyLeavesNothing: also when it ends in the middle.
func TestInterruptedCopyLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	f, err := CreateFile(filepath.Join(dir, "image"), false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	q := NewQcow2(f, 4<<20)
	from := sources()["full"]
	_, err = Copy(ctx, from, cancelling{q, cancel}, false, &Progress{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a copy that was cancelled: %v", err)
	}
	if err := q.Abort(); err != nil {
		t.Error(err)
	}
	if names := namesIn(t, dir); len(names) != 0 {
		t.Errorf("left: %q", names)
	}
}

// cancelling cancels at the first write.
type cancelling struct {
	Sink
	cancel func()
}

func (c cancelling) Write(p []byte, off int64) error {
	c.cancel()
	return c.Sink.Write(p, off)
}

// TestATakenFileStays: a file that was killed when it had its own name already, and the
// hidden one still, is somebody's image, or a store's base: the next one of that name
// does not begin by emptying it.
func TestATakenFileStays(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "image")
	f, err := CreateFile(name, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.file.WriteString("whole"); err != nil {
		t.Fatal(err)
	}
	hidden, err := f.CommitHidden()
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(dir, "base.img")
	if err := errors.Join(os.Link(hidden, base), f.Release()); err != nil { // and the process is gone
		t.Fatal(err)
	}
	for _, force := range []bool{false, true} {
		next, err := CreateFile(name, force)
		if err != nil {
			t.Fatal(err)
		}
		if content, err := os.ReadFile(base); err != nil || string(content) != "whole" {
			t.Errorf("the other name's content is %q, %v", content, err)
		}
		if _, err := next.file.WriteString("next"); err != nil {
			t.Fatal(err)
		}
		if err := next.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if content, err := os.ReadFile(base); err != nil || string(content) != "whole" {
		t.Errorf("in the end the other name's content is %q, %v", content, err)
	}
	if content, err := os.ReadFile(name); err != nil || string(content) != "next" {
		t.Errorf("the new file holds %q, %v", content, err)
	}
}

// TestAHiddenFileIsItsWriters: until its writer has given it the other name, somebody else who
// begins one of that name does not empty it.
func TestAHiddenFileIsItsWriters(t *testing.T) {
	name := filepath.Join(t.TempDir(), "image")
	f, err := CreateFile(name, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.file.WriteString("whole"); err != nil {
		t.Fatal(err)
	}
	hidden, err := f.CommitHidden()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateFile(name, false); err == nil {
		t.Error("two have one file")
	}
	if content, err := os.ReadFile(hidden); err != nil || string(content) != "whole" {
		t.Errorf("it holds %q, %v", content, err)
	}
	if err := f.Release(); err != nil {
		t.Error(err)
	}
}

// TestALinkThatLeadsNowhereIsRefused: at once, and not when the image is whole.
func TestALinkThatLeadsNowhereIsRefused(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	for _, force := range []bool{false, true} {
		if f, err := CreateFile(link, force); err == nil {
			t.Errorf("forced %t: it is begun, and ends with %v", force, f.Commit())
		}
	}
	if target, err := os.Readlink(link); err != nil || target != "nowhere" {
		t.Errorf("the link is %q, %v", target, err)
	}
	if names := namesIn(t, dir); len(names) != 1 {
		t.Errorf("left: %q", names)
	}
}
