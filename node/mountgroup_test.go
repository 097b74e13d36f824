package node

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// swapping is a context that calls swap when it is asked for the at-th time whether it
// has ended, which a walk does at each of its entries.
type swapping struct {
	context.Context
	at   int
	swap func()
}

func (c *swapping) Err() error {
	if c.at--; c.at == 0 {
		c.swap()
	}
	return c.Context.Err()
}

// TestMountGroupStaysInTheVolume has a pod that uses the volume already put a link in the
// place of a directory, while its files are given to the group of another pod.
func TestMountGroupStaysInTheVolume(t *testing.T) {
	needRoot(t)
	for at := 1; at <= 4; at++ {
		volume, host := t.TempDir(), t.TempDir()
		dir, secret := filepath.Join(volume, "dir"), filepath.Join(host, "secret")
		ok(t, os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "secret"), nil, 0o600))
		ok(t, os.WriteFile(secret, nil, 0o600), os.Chmod(host, 0o700))
		ctx := &swapping{Context: t.Context(), at: at, swap: func() {
			ok(t, os.Rename(dir, filepath.Join(t.TempDir(), "moved")), os.Symlink(host, dir))
		}}
		err := giveToGroup(ctx, volume, "4711")
		t.Logf("swapped at entry %d: %v", at, err)
		for path, want := range map[string]string{host: "0 700", secret: "0 600"} {
			got, err := exec.Command("stat", "-c", "%g %a", path).CombinedOutput()
			if ok(t, err); strings.TrimSpace(string(got)) != want {
				t.Errorf("swapped at entry %d: %s of the host is %s, want %s", at, path, got, want)
			}
		}
	}
}

// TestMountGroupKeepsSetUserID: a change of a file's group takes set-user-id and set-group-id
// from a program. Files have them for a reason.
func TestMountGroupKeepsSetUserID(t *testing.T) {
	needRoot(t)
	volume := t.TempDir()
	for name, mode := range map[string]os.FileMode{"setuid": os.ModeSetuid | 0o711, "setgid": os.ModeSetgid | 0o755, "plain": 0o640} {
		path := filepath.Join(volume, name)
		ok(t, os.WriteFile(path, nil, 0o600), os.Chmod(path, mode))
	}
	ok(t, giveToGroup(t.Context(), volume, "4711"))
	for name, want := range map[string]string{"setuid": "4711 4771", "setgid": "4711 2775", "plain": "4711 660", ".": "4711 2775"} {
		got, err := exec.Command("stat", "-c", "%g %a", filepath.Join(volume, name)).CombinedOutput()
		if ok(t, err); strings.TrimSpace(string(got)) != want {
			t.Errorf("%s is %s, want %s", name, strings.TrimSpace(string(got)), want)
		}
	}
}
