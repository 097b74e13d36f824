package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

const offlineBytes = 4<<20 + 512

// shown is a position of a store and the checksum of the volume there.
type shown struct {
	at         journal.Position
	checkpoint uint64
	time       time.Time
	sum        [sha256.Size]byte
}

// offlineStore is a closed store that an engine has written to.
type offlineStore struct {
	dir     string
	moments []shown // oldest first; the last is the tip
}

// newOfflineStore has an engine write, discard and take checkpoints, with a part
// of it destaged, and notes what its views showed.
func newOfflineStore(t *testing.T) offlineStore {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	now := clock.NewManual(epoch)
	cfg := journal.Config{FS: vfs.OS{}, Dir: dir, SegmentBytes: journal.MinSegmentBytes, JournalBytes: 8 * journal.MinSegmentBytes, Clock: now}
	if err := journal.Create(cfg, journal.Spec{Volume: journal.VolumeID{1}, SizeBytes: offlineBytes}); err != nil {
		t.Fatal(err)
	}
	store, err := journal.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	eng, rng := engine.New(store), rand.New(rand.NewPCG(7, 7))
	out := offlineStore{dir: dir}
	ctx := context.Background()
	for i := range 400 {
		now.Advance(time.Second)
		off, n := rng.Int64N(offlineBytes/512-64)*512, 512*(1+rng.Int64N(64))
		if i%5 == 4 {
			err = eng.Discard(ctx, off, n)
		} else {
			err = eng.WriteAt(ctx, bytes.Repeat([]byte{byte(1 + i)}, int(n)), off, false)
		}
		if err != nil {
			t.Fatal(err)
		}
		if i%40 == 39 {
			out.moments = append(out.moments, takeMoment(t, store, uint64(i), now.Now()))
		}
	}
	if err := errors.Join(store.Maintain(ctx), store.Close()); err != nil {
		t.Fatal(err)
	}
	horizon := horizonOf(t, dir)
	for len(out.moments) > 0 && out.moments[0].at.Seq < horizon.Seq {
		out.moments = out.moments[1:]
	}
	if len(out.moments) < 3 || horizon.Seq == 0 {
		t.Fatalf("%d moments behind horizon %s", len(out.moments), horizon)
	}
	return out
}

func takeMoment(t *testing.T, store *journal.Store, number uint64, at time.Time) shown {
	t.Helper()
	pos, err := store.Checkpoint(journal.Checkpoint{Number: journal.CheckpointNumber(number), Time: at, CheckpointInfo: journal.CheckpointInfo{Group: "shop"}})
	if err == nil {
		err = store.Flush(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
	v, err := store.View(pos)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	p := make([]byte, v.SizeBytes())
	if err := v.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	return shown{pos, number, at, sha256.Sum256(p)}
}

func horizonOf(t *testing.T, dir string) journal.Position {
	t.Helper()
	r, err := journal.OpenReadOnly(journal.Config{FS: vfs.OS{}, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	return r.Horizon()
}

func (s offlineStore) tip() shown { return s.moments[len(s.moments)-1] }

func sumOf(t *testing.T, name string) [sha256.Size]byte {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(content)
}

// TestJournalExport exports every moment in every way to name it, raw and qcow2,
// and compares with what the engine's views showed.
func TestJournalExport(t *testing.T) {
	store, s := newOfflineStore(t), newShell("")
	out := t.TempDir()
	for i, m := range store.moments {
		for j, at := range []string{m.at.String(), fmt.Sprint(m.checkpoint), m.time.Add(time.Millisecond).Format(time.RFC3339Nano)} {
			raw := filepath.Join(out, fmt.Sprintf("%d-%d.raw", i, j))
			s.must(t, "journal", "export", store.dir, raw, "--at", at)
			if sumOf(t, raw) != m.sum {
				t.Errorf("--at %s: the image is not what the view showed", at)
			}
		}
		image, back := filepath.Join(out, fmt.Sprintf("%d.qcow2", i)), filepath.Join(out, fmt.Sprintf("%d.back", i))
		var document imageDocument
		if err := json.Unmarshal([]byte(s.must(t, "journal", "export", store.dir, image, "--at", m.at.String(), "-o", "json")), &document); err != nil {
			t.Fatal(err)
		}
		if document.Format != "qcow2" || document.Position != m.at.String() || document.SizeBytes != offlineBytes || document.Checkpoint == nil || *document.Checkpoint != m.checkpoint {
			t.Errorf("document %+v", document)
		}
		qemuImg(t, "check", image)
		qemuImg(t, "convert", "-O", "raw", image, back)
		if sumOf(t, back) != m.sum {
			t.Errorf("the qcow2 image at %s is not what the view showed", m.at)
		}
	}
	latest := filepath.Join(out, "latest")
	if got := s.must(t, "journal", "export", store.dir, latest, "-o", "name"); got != latest+"\n" || sumOf(t, latest) != store.tip().sum {
		t.Errorf("printed %q", got)
	}
	if sum := s.must(t, "journal", "verify", store.dir); !strings.Contains(sum, "sound") {
		t.Errorf("after all exports: %s", sum)
	}
}

func qemuImg(t *testing.T, args ...string) {
	t.Helper()
	tool, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("no qemu-img (package qemu-utils): qcow2 images were not checked by it")
	}
	if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %q: %v\n%s", args, err, out)
	}
}

func TestJournalExportRefuses(t *testing.T) {
	store, s := newOfflineStore(t), newShell("")
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := newOfflineStore(t)
	for name, c := range map[string]struct {
		args []string
		exit int
		says string
	}{
		"another store's base":     {[]string{store.dir, filepath.Join(other.dir, "base.img"), "--force"}, exitUsage, "lies in the store"},
		"a file that is there":     {[]string{store.dir, there}, exitFailed, "--force"},
		"an unknown format":        {[]string{store.dir, filepath.Join(dir, "x"), "--format", "vmdk"}, exitUsage, "want one of raw, qcow2"},
		"a target in the store":    {[]string{store.dir, filepath.Join(store.dir, "base.img"), "--force"}, exitUsage, "lies in the store"},
		"no such checkpoint":       {[]string{store.dir, filepath.Join(dir, "x"), "--at", "999999"}, exitFailed, "nearest: " + fmt.Sprint(store.tip().checkpoint)},
		"a time before all":        {[]string{store.dir, filepath.Join(dir, "x"), "--at", "2001-01-01T00:00:00Z"}, exitFailed, "the oldest is"},
		"an unknown position":      {[]string{store.dir, filepath.Join(dir, "x"), "--at", "1/1"}, exitFailed, "unknown position"},
		"a position before":        {[]string{store.dir, filepath.Join(dir, "x"), "--at", journal.Position{Timeline: store.tip().at.Timeline, Seq: 1}.String()}, exitFailed, "before the horizon"},
		"an unknown pin":           {[]string{store.dir, filepath.Join(dir, "x"), "--at", "pin:none"}, exitFailed, "no pin"},
		"a moment that is none":    {[]string{store.dir, filepath.Join(dir, "x"), "--at", "yesterday"}, exitUsage, "not understood"},
		"no store":                 {[]string{t.TempDir(), filepath.Join(dir, "x")}, exitFailed, "not a lockstep store"},
		"a directory that is none": {[]string{store.dir, filepath.Join(dir, "none", "x")}, exitFailed, "no such file"},
	} {
		got := s.run(t, append([]string{"journal", "export"}, c.args...)...)
		if got.exit != c.exit || !strings.Contains(got.stderr, c.says) {
			t.Errorf("%s: exit %d: %s", name, got.exit, got.stderr)
		}
	}
	open, err := journal.Open(journal.Config{FS: vfs.OS{}, Dir: store.dir})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.run(t, "journal", "export", store.dir, filepath.Join(dir, "x")); got.exit != exitFailed || !strings.Contains(got.stderr, "lockstep view open") {
		t.Errorf("a store in use: exit %d: %s", got.exit, got.stderr)
	}
	s = newJournalShell()
	for verb, instead := range map[string]string{"verify": "lockstep volume scrub", "dump": "lockstep timeline list"} {
		if got := s.run(t, "journal", verb, store.dir); got.exit != exitFailed || !strings.Contains(got.stderr, "stop its site, or") || !strings.Contains(got.stderr, instead) {
			t.Errorf("%s of a store in use: exit %d: %s", verb, got.exit, got.stderr)
		}
	}
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if got := s.runContext(t, ctx, "journal", "export", store.dir, filepath.Join(dir, "x")); got.exit != exitFailed || !strings.Contains(got.stderr, "interrupted: nothing of the image was left") {
		t.Errorf("interrupted: exit %d: %s", got.exit, got.stderr)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || string(must(os.ReadFile(there))(t)) != "mine" {
		t.Errorf("left: %v, %v", entries, err)
	}
	s.must(t, "journal", "export", store.dir, there, "--force")
	if sumOf(t, there) != store.tip().sum {
		t.Error("--force: another image")
	}
}

func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// TestJournalExportOfDamage damages a payload: the export names it, and goes on
// if it is told to, with the rest unchanged.
func TestJournalExportOfDamage(t *testing.T) {
	store, s := newOfflineStore(t), newShell("")
	whole, holed := filepath.Join(t.TempDir(), "whole"), filepath.Join(t.TempDir(), "holed")
	s.must(t, "journal", "export", store.dir, whole)
	last := damageLastWrite(t, s, store.dir)
	got := s.run(t, "journal", "export", store.dir, holed)
	if got.exit != exitFailed || !strings.Contains(got.stderr, filepath.Base(last)) || !strings.Contains(got.stderr, "of the volume are damaged") || !strings.Contains(got.stderr, "wanted crc") {
		t.Fatalf("damaged: exit %d: %s", got.exit, got.stderr)
	}
	if _, err := os.Stat(holed); err == nil {
		t.Fatal("an image that is not whole was left")
	}
	got = s.run(t, "journal", "export", store.dir, holed, "--keep-going", "-o", "json")
	var document imageDocument
	if err := json.Unmarshal([]byte(got.stdout), &document); err != nil || got.exit != exitFailed || len(document.Missing) == 0 {
		t.Fatalf("exit %d, %v: %s%s", got.exit, err, got.stdout, got.stderr)
	}
	want, have := must(os.ReadFile(whole))(t), must(os.ReadFile(holed))(t)
	for _, m := range document.Missing {
		if m.Damage.File != "journal/"+filepath.Base(last) || m.Damage.Wanted == "" {
			t.Errorf("missing %+v", m)
		}
		clear(want[m.OffsetBytes:][:m.LengthBytes])
	}
	if !bytes.Equal(want, have) {
		t.Error("the image differs where nothing is said to be missing")
	}
}

// damageLastWrite changes a byte of the newest write's payload, and returns the
// segment's file.
func damageLastWrite(t *testing.T, s *shell, dir string) string {
	t.Helper()
	var file string
	var off int64
	for line := range strings.Lines(s.must(t, "journal", "dump", dir, "--records", "-o", "jsonl")) {
		var entry struct {
			Record struct {
				Kind, File string
				FileOffset int64
			}
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		if entry.Record.Kind == "write" {
			file, off = filepath.Join(dir, entry.Record.File), entry.Record.FileOffset
		}
	}
	f := must(os.OpenFile(file, os.O_RDWR, 0))(t)
	_, err := f.WriteAt([]byte{0xff}, off+300)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestJournalExportToADevice uses a loop device.
func TestJournalExportToADevice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: no export to a block device was tried")
	}
	store, s := newOfflineStore(t), newShell("")
	file := filepath.Join(t.TempDir(), "disk")
	noise := bytes.Repeat([]byte{0x5a}, offlineBytes+8192-512)
	if err := os.WriteFile(file, noise, 0o600); err != nil {
		t.Fatal(err)
	}
	device := strings.TrimSpace(string(must(exec.Command("losetup", "--find", "--show", file).Output())(t)))
	defer func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %v: %s", device, err, out)
		}
	}()
	if got := s.run(t, "journal", "export", store.dir, device); got.exit != exitUsage || !strings.Contains(got.stderr, "--force") {
		t.Errorf("without --force: exit %d: %s", got.exit, got.stderr)
	}
	if got := s.run(t, "journal", "export", store.dir, device, "--force", "--format", "qcow2"); got.exit != exitUsage {
		t.Errorf("qcow2: exit %d: %s", got.exit, got.stderr)
	}
	held := must(os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0))(t) // as a mount does
	if got := s.run(t, "journal", "export", store.dir, device, "--force"); got.exit != exitFailed || !strings.Contains(got.stderr, "in use") {
		t.Errorf("a device in use: exit %d: %s", got.exit, got.stderr)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if got := s.runContext(t, over, "journal", "export", store.dir, device, "--force"); got.exit != exitFailed || !strings.Contains(got.stderr, "was not written to") {
		t.Errorf("interrupted before the device was begun: exit %d: %s", got.exit, got.stderr)
	}
	s.must(t, "journal", "export", store.dir, device, "--force")
	content := must(os.ReadFile(device))(t)
	if sha256.Sum256(content[:offlineBytes]) != store.tip().sum {
		t.Error("the device holds something else")
	}
	if !bytes.Equal(content[offlineBytes:], noise[offlineBytes:]) {
		t.Error("what lies behind the image on the device has changed")
	}
	small := filepath.Join(t.TempDir(), "small")
	if err := os.WriteFile(small, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	other := strings.TrimSpace(string(must(exec.Command("losetup", "--find", "--show", small).Output())(t)))
	defer func() { _ = exec.Command("losetup", "--detach", other).Run() }()
	if got := s.run(t, "journal", "export", store.dir, other, "--force"); got.exit != exitFailed || !strings.Contains(got.stderr, "too small") {
		t.Errorf("a small device: exit %d: %s", got.exit, got.stderr)
	}
}

// TestOfflineToolsSayWhereTheStoreIs: whoever names the directory of a volume, as a site's
// root has them, is told which of its directories is the store; and who repeats an import
// that came to its end, what became of the image.
func TestOfflineToolsSayWhereTheStoreIs(t *testing.T) {
	dir := t.TempDir()
	image, volume := filepath.Join(dir, "disk.img"), filepath.Join(dir, "volume")
	store := filepath.Join(volume, "store-1")
	if err := errors.Join(os.WriteFile(image, make([]byte, 1<<20), 0o600), os.Mkdir(volume, 0o700)); err != nil {
		t.Fatal(err)
	}
	s := newShell("")
	s.must(t, "journal", "import", image, store)
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"journal", "verify", volume}, "its store is " + store},
		{[]string{"journal", "dump", volume}, "its store is " + store},
		{[]string{"journal", "export", volume, filepath.Join(dir, "out")}, "its store is " + store},
		{[]string{"journal", "drain", volume, "--yes"}, "its store is " + store},
		{[]string{"journal", "import", image, store}, "has taken the image"},
	} {
		if got := s.run(t, c.args...); got.exit != exitFailed || !strings.Contains(got.stderr, c.says) {
			t.Errorf("%v ends with %d and says %q, want %q", c.args, got.exit, got.stderr, c.says)
		}
	}
}
