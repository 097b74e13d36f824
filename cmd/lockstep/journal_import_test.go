package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/journal"
)

// newImageFile makes a raw image with a hole.
func newImageFile(t *testing.T, dir string) (name string, content []byte) {
	t.Helper()
	content = make([]byte, 8<<20+512)
	copy(content[1<<20:], bytes.Repeat([]byte("disk"), 100000))
	content[len(content)-1] = 1
	name = filepath.Join(dir, "disk.img")
	f := must(os.Create(name))(t)
	_, err := f.WriteAt(content[1<<20:][:400000], 1<<20)
	if err == nil {
		_, err = f.WriteAt(content[len(content)-512:], int64(len(content)-512))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return name, content
}

func inode(t *testing.T, name string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// wantVolume exports a store's present and compares.
func wantVolume(t *testing.T, s *shell, dir string, content []byte) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	s.must(t, "journal", "export", dir, out)
	if !bytes.Equal(must(os.ReadFile(out))(t), content) {
		t.Error("the volume is not the image")
	}
	if got := s.must(t, "journal", "verify", dir); !strings.Contains(got, "sound") {
		t.Errorf("verify: %s", got)
	}
}

func TestJournalImport(t *testing.T) {
	s, root := newShell(""), t.TempDir()
	name, content := newImageFile(t, root)
	was, dir := inode(t, name), filepath.Join(root, "deep", "store")
	var document importDocument
	if err := json.Unmarshal([]byte(s.must(t, "journal", "import", name, dir, "-o", "json")), &document); err != nil {
		t.Fatal(err)
	}
	if document.Store != dir || document.SizeBytes != int64(len(content)) || document.Copied {
		t.Errorf("document %+v", document)
	}
	if _, err := journal.ParseVolumeID(document.Volume); err != nil {
		t.Error(err)
	}
	if inode(t, journal.BasePath(dir)) != was {
		t.Error("the base is another file: it was copied")
	}
	if _, err := os.Stat(name); err == nil {
		t.Error("the image still has its old name")
	}
	wantVolume(t, s, dir, content)
	s.must(t, "journal", "drain", dir, "--yes")
	if !bytes.Equal(must(os.ReadFile(journal.BasePath(dir)))(t), content) {
		t.Error("drained at once, it is not the image")
	}
}

func TestJournalImportCopies(t *testing.T) {
	s, root := newShell(""), t.TempDir()
	name, content := newImageFile(t, root)
	dir := filepath.Join(root, "store")
	id := journal.VolumeID{9}
	s.must(t, "journal", "import", name, dir, "--copy", "--volume", id.String())
	if !bytes.Equal(must(os.ReadFile(name))(t), content) {
		t.Error("the image has changed")
	}
	wantVolume(t, s, dir, content)
	if entries := must(os.ReadDir(root))(t); len(entries) != 2 {
		t.Errorf("left: %v", entries)
	}
}

// TestJournalImportGoesOn: what an import that was killed leaves is taken up.
func TestJournalImportGoesOn(t *testing.T) {
	s, root := newShell(""), t.TempDir()
	name, content := newImageFile(t, root)
	dir := filepath.Join(root, "store")
	// Killed before the store was one: a second name, and parts of a store.
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "journal"), 0o700), os.Link(name, journal.BasePath(dir)), os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	s.must(t, "journal", "import", name, dir)
	// Killed before the old name went.
	if err := os.Link(journal.BasePath(dir), name); err != nil {
		t.Fatal(err)
	}
	s.must(t, "journal", "import", name, dir)
	if _, err := os.Stat(name); err == nil {
		t.Error("the image still has its old name")
	}
	wantVolume(t, s, dir, content)
}

// TestJournalImportLeavesAnotherJournalAlone: an import that was interrupted leaves a journal with
// nothing in it. One that holds something is somebody else's, the journals of a site for example.
func TestJournalImportLeavesAnotherJournalAlone(t *testing.T) {
	s, root := newShell(""), t.TempDir()
	name, content := newImageFile(t, root)
	dir := filepath.Join(root, "disk")
	theirs := filepath.Join(dir, "journal", "volumes", "segment")
	if err := errors.Join(os.MkdirAll(filepath.Dir(theirs), 0o700), os.WriteFile(theirs, []byte("precious"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, how := range [][]string{{}, {"--copy"}} {
		got := s.run(t, append([]string{"journal", "import", name, dir}, how...)...)
		if got.exit != exitFailed || !strings.Contains(got.stderr, `holds "journal" already`) {
			t.Errorf("import %v: exit %d: %s", how, got.exit, got.stderr)
		}
		if got, err := os.ReadFile(theirs); err != nil || string(got) != "precious" {
			t.Errorf("import %v has left %q of it, %v", how, got, err)
		}
	}
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the image has changed: %v", err)
	}
}

func TestJournalImportRefuses(t *testing.T) {
	s, root := newShell(""), t.TempDir()
	name, content := newImageFile(t, root)
	file := func(base string, content []byte) string {
		t.Helper()
		path := filepath.Join(root, base)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	other := filepath.Join(root, "other")
	s.must(t, "journal", "import", file("second.img", make([]byte, 4096)), other)
	taken := filepath.Join(root, "taken")
	if err := errors.Join(os.Mkdir(taken, 0o700), os.WriteFile(filepath.Join(taken, "base.img"), []byte("precious"), 0o600)); err != nil {
		t.Fatal(err)
	}
	linked := file("linked.img", make([]byte, 4096))
	if err := os.Link(linked, linked+".too"); err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(root, "store")
	for what, c := range map[string]struct {
		args []string
		exit int
		says string
	}{
		"no image":                  {[]string{filepath.Join(root, "none"), store}, exitFailed, "no such file"},
		"no whole sectors":          {[]string{file("odd.img", make([]byte, 1000)), store}, exitFailed, "multiple of 512"},
		"an empty file":             {[]string{file("empty.img", nil), store}, exitFailed, "multiple of 512"},
		"a qcow2 image":             {[]string{file("q.img", append([]byte("QFI\xfb"), make([]byte, 508)...)), store}, exitFailed, "qemu-img convert"},
		"a directory":               {[]string{t.TempDir(), store}, exitFailed, "neither a file"},
		"over a store":              {[]string{name, other}, exitFailed, "already exists"},
		"over somebody's base":      {[]string{name, taken}, exitFailed, "base.img"},
		"into its own directory":    {[]string{name, root}, exitUsage, "lies in"},
		"an image with other names": {[]string{linked, store}, exitFailed, "hard links"},
		"no volume id":              {[]string{name, store, "--volume", "x"}, exitUsage, "--volume"},
	} {
		got := s.run(t, append([]string{"journal", "import"}, c.args...)...)
		if got.exit != c.exit || !strings.Contains(got.stderr, c.says) {
			t.Errorf("%s: exit %d: %s", what, got.exit, got.stderr)
		}
	}
	open := must(os.Open(name))(t)
	if got := s.run(t, "journal", "import", name, store); got.exit != exitFailed || !strings.Contains(got.stderr, "open somewhere else") {
		t.Errorf("an image in use: exit %d: %s", got.exit, got.stderr)
	}
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(must(os.ReadFile(name))(t), content) || string(must(os.ReadFile(filepath.Join(taken, "base.img")))(t)) != "precious" {
		t.Error("a refused import has changed something")
	}
	if _, err := os.Stat(store); err == nil {
		t.Error("a refused import has left a directory")
	}
}

// TestJournalImportOverFileSystems: an image on another one can only be copied.
// The device that it is copied from here is also an image of the other kind.
func TestJournalImportOverFileSystems(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: no import from another file system, and from a device, was tried")
	}
	s, root := newShell(""), t.TempDir()
	mount := filepath.Join(root, "mount")
	if err := errors.Join(os.Mkdir(mount, 0o700), unix.Mount("lockstep-test", mount, "tmpfs", 0, "size=32m")); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	}()
	name, content := newImageFile(t, mount)
	dir := filepath.Join(root, "store")
	if got := s.run(t, "journal", "import", name, dir); got.exit != exitFailed || !strings.Contains(got.stderr, "--copy") {
		t.Errorf("another file system: exit %d: %s", got.exit, got.stderr)
	}
	s.must(t, "journal", "import", name, dir, "--copy")
	wantVolume(t, s, dir, content)

	device := strings.TrimSpace(string(must(exec.Command("losetup", "--find", "--show", name).Output())(t)))
	defer func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %v: %s", device, err, out)
		}
	}()
	from := filepath.Join(root, "from-device")
	if got := s.run(t, "journal", "import", device, from); got.exit != exitFailed || !strings.Contains(got.stderr, "block device") {
		t.Errorf("a device without --copy: exit %d: %s", got.exit, got.stderr)
	}
	s.must(t, "journal", "import", device, from, "--copy")
	wantVolume(t, s, from, content)
	held := must(os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0))(t)
	if got := s.run(t, "journal", "import", device, filepath.Join(root, "x"), "--copy"); got.exit != exitFailed || !strings.Contains(got.stderr, "in use") {
		t.Errorf("a device in use: exit %d: %s", got.exit, got.stderr)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if got := s.run(t, "journal", "import", name, filepath.Join(root, "y")); got.exit != exitFailed || !strings.Contains(got.stderr, "open somewhere else") {
		t.Errorf("an image behind a loop device: exit %d: %s", got.exit, got.stderr)
	}
}

// TestJournalImportTakesNoBase: without its base a store is nothing, by whichever path that
// is named. A copy may be made of it.
func TestJournalImportTakesNoBase(t *testing.T) {
	store, s := newOfflineStore(t), newShell("")
	root := t.TempDir()
	alias := filepath.Join(root, "alias")
	paths := map[string]string{"into another store": filepath.Join(root, "new")}
	dirs := []string{store.dir}
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Mkdir(alias, 0o700), unix.Mount(store.dir, alias, "", unix.MS_BIND, "")); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := unix.Unmount(alias, 0); err != nil {
				t.Error(err)
			}
		}()
		dirs = append(dirs, alias)
		paths["into itself"] = store.dir
	}
	for _, dir := range dirs {
		for what, into := range paths {
			args := []string{"journal", "import", journal.BasePath(dir), into}
			if got := s.run(t, args...); got.exit == exitOK || dir != into && !strings.Contains(got.stderr, "journal export") {
				t.Errorf("%v, %s: exit %d: %s", args, what, got.exit, got.stderr)
			}
		}
	}
	if got := s.run(t, "journal", "import", journal.BasePath(alias), store.dir, "--copy"); got.exit == exitOK {
		t.Errorf("the base of a store was copied over itself: %s", got.stdout)
	}
	s.must(t, "journal", "import", journal.BasePath(store.dir), filepath.Join(root, "copy"), "--copy")
	if got := s.must(t, "journal", "verify", store.dir); !strings.Contains(got, "sound") {
		t.Errorf("the store afterwards: %s", got)
	}
}
