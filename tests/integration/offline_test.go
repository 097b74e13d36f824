package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

func fileDigest(t *testing.T, name string) string {
	t.Helper()
	f := must(os.Open(name))(t)
	defer f.Close()
	h := sha256.New()
	_ = must(io.Copy(h, f))(t)
	return hex.EncodeToString(h.Sum(nil))
}

// storeOf is where a site keeps a volume.
func storeOf(t *testing.T, s *harness.Site, env *harness.Env, v *harness.Volume) string {
	t.Helper()
	found := must(filepath.Glob(env.Path(s.Config.Name, "volumes", v.ID, "store-*")))(t)
	if len(found) != 1 {
		t.Fatalf("stores of volume %s: %q", v.ID, found)
	}
	return found[0]
}

// TestOfflineTools takes a volume with a file system through all of them: moments
// are exported and compared with what views showed, the store is drained and its
// image mounted without Lockstep, imported, adopted by the site, and used on.
func TestOfflineTools(t *testing.T) {
	ctx, env := newEnv(t)
	site := must(env.StartSite(ctx, harness.SiteConfig{Name: "a"}))(t)
	v := must(site.CreateVolume(ctx, harness.VolumeSpec{Name: "disk", FSType: "ext4", SizeBytes: 64 * mib, Parameters: map[string]string{"group": groupName}}))(t)
	check(t, site.Publish(ctx, v))
	digests := map[string]string{} // by checkpoint
	for i := range 3 {
		check(t, os.WriteFile(filepath.Join(v.Target, fmt.Sprintf("note-%d", i)), []byte(strings.Repeat(fmt.Sprint(i), 100000)), 0o600))
		_ = must(harness.Run(ctx, "sync", "--file-system", v.Target))(t)
		at := takePoint(ctx, t, site)
		view := must(site.OpenView(ctx, groupName, at))(t)
		digests[at] = must(view.Digest(v.ID))(t)
		check(t, view.Close(ctx))
	}
	store := storeOf(t, site, env, v)
	if _, err := env.Lockstep(ctx, "journal", "export", store, env.Path("x")); err == nil {
		t.Error("a store in use was exported")
	}
	check(t, site.Unpublish(ctx, v, true))
	check(t, site.Stop(syscall.SIGTERM))

	for at, want := range digests {
		raw, qcow2, back := env.Path("raw-"+at), env.Path(at+".qcow2"), env.Path("back-"+at)
		_ = must(env.Lockstep(ctx, "journal", "export", store, raw, "--at", at))(t)
		_ = must(env.Lockstep(ctx, "journal", "export", store, qcow2, "--at", at))(t)
		if got := fileDigest(t, raw); got != want {
			t.Errorf("raw image of checkpoint %s is not what the view showed", at)
		}
		if harness.Missing("qemu-img") == nil {
			_ = must(harness.Run(ctx, "qemu-img", "check", qcow2))(t)
			_ = must(harness.Run(ctx, "qemu-img", "convert", "-O", "raw", qcow2, back))(t)
			if got := fileDigest(t, back); got != want {
				t.Errorf("qcow2 image of checkpoint %s is not what the view showed", at)
			}
		}
	}

	image := strings.TrimSpace(must(env.Lockstep(ctx, "journal", "drain", store, "--yes", "-o", "name"))(t))
	taken := env.Path("taken") // mounting writes to it, and the store is to go on
	_ = must(harness.Run(ctx, "cp", "--sparse=always", image, taken))(t)
	unmount := must(env.MountImage(ctx, taken, "ext4", env.Path("mnt", "drained")))(t)
	content := must(os.ReadFile(filepath.Join(env.Path("mnt", "drained"), "note-2")))(t)
	if string(content) != strings.Repeat("2", 100000) {
		t.Error("the drained image has another file")
	}
	check(t, unmount())

	_ = must(env.Lockstep(ctx, "journal", "import", image, env.Path("imported"), "--copy"))(t)
	check(t, site.Start(ctx))
	check(t, site.Publish(ctx, v)) // the drained store goes on as a volume
	check(t, site.Unpublish(ctx, v, true))
	var adopted struct{ Volume struct{ ID string } }
	out := must(env.Lockstep(ctx, "volume", "adopt", env.Path("imported"), "--group", groupName, "-o", "json", "--admin", site.AdminSocket))(t)
	check(t, json.Unmarshal([]byte(out), &adopted))
	other := site.Adopted(&harness.Volume{ID: adopted.Volume.ID, Name: "imported", FSType: "ext4"})
	check(t, site.Publish(ctx, other))
	content = must(os.ReadFile(filepath.Join(other.Target, "note-0")))(t)
	if string(content) != strings.Repeat("0", 100000) {
		t.Error("the adopted volume has another file")
	}
	check(t, os.WriteFile(filepath.Join(other.Target, "more"), []byte("more"), 0o600))
	if point := takePoint(ctx, t, site); point == "" {
		t.Error("no point with both members")
	}
	check(t, site.Unpublish(ctx, other, true))
}
