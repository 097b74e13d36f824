package enginepod_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/driver/enginepod"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// aligned is a block of b in memory that direct I/O accepts.
func aligned(t *testing.T, b byte) []byte {
	t.Helper()
	p, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(p) })
	copy(p, bytes.Repeat([]byte{b}, len(p)))
	return p
}

// open opens a device as a file that Go's poller does not know.
func open(t *testing.T, device string) int {
	t.Helper()
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// serveBy starts the volume's engine on the node of a holder, and returns its device.
func (n *node) serveBy(socket string, revision uint64) (device string) {
	n.t.Helper()
	n.kill()
	n.cfg.HolderSocket, n.cfg.Listen = socket, freeAddress(n.t)
	n.start()
	client := control.NewClient(n.cfg.Volume, n.dial(certs.RoleController))
	state, err := client.Order(within(n.t, 30*time.Second), n.orders(revision))
	if err != nil || state.Device == "" {
		n.t.Fatalf("order: %+v, %v", state, err)
	}
	return state.Device
}

// A node is cut off while a write is under way, the volume is written on another one,
// and comes back: the write fails, and what was written elsewhere is there.
func TestAVolumeComesBackToANodeThatWasCutOff(t *testing.T) {
	n := newNode(t)
	here, elsewhere := n.cfg.HolderSocket, n.keep("elsewhere")
	fd := open(t, n.serveBy(here, 1))
	n.kill()
	old, written := aligned(t, 1), make(chan error, 1)
	go func() {
		_, err := unix.Pwrite(fd, old, 0)
		written <- err
	}()
	other := n.serveBy(elsewhere, 2)
	newer := open(t, other)
	if _, err := unix.Pwrite(newer, aligned(t, 2), 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fsync(newer); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-written:
		t.Fatalf("a write on a node without an engine ended: %v", err)
	default:
	}
	back := n.serveBy(here, 3)
	select {
	case err := <-written:
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("the write of before: %v, want EIO", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the write of before waits still")
	}
	p := aligned(t, 0)
	if _, err := unix.Pread(open(t, back), p, 0); err != nil || !bytes.Equal(p, aligned(t, 2)) {
		t.Errorf("the volume begins with %d, %v", p[0], err)
	}
}

// An engine knows on which machine it runs, and leaves the device of another one behind.
func TestADeviceOfAnotherMachineIsLeftBehind(t *testing.T) {
	n := newNode(t)
	here := n.cfg.HolderSocket
	fd := open(t, n.serveBy(here, 1))
	n.kill()
	machine, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	files := vfs.OS{}
	db, err := files.OpenDB(filepath.Join(n.cfg.StoreDir, "engine.db"))
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx kv.Tx) error {
		record := map[string]json.RawMessage{}
		if err := json.Unmarshal(tx.Get("engine", []byte("record")), &record); err != nil {
			return err
		}
		if noted, want := string(record["boot"]), strconv.Quote(strings.TrimSpace(string(machine))); noted != want {
			t.Errorf("the device is noted to be on machine %s, want %s", noted, want)
		}
		record["boot"] = json.RawMessage(`"another"`)
		raw, err := json.Marshal(record)
		if err != nil {
			return err
		}
		return tx.Put("engine", []byte("record"), raw)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	n.serveBy(here, 2)
	if _, err := unix.Pwrite(fd, aligned(t, 1), 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("a write to the device that was left behind: %v, want EIO", err)
	}
}

// Before the identity of a device is durable nobody can use the device.
func TestADeviceIsKeptBeforeItIsUsed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("attaching through a holder not tested: FUSE mounts and loop devices need root")
	}
	h, socket := startHolder(t, time.Nanosecond)
	r := newRig(t, newNetwork(), 1)
	r.order(r.primary(1, 1))
	devices := enginepod.HolderDevices{Volume: r.id, Socket: socket, Log: slog.New(slog.DiscardHandler)}
	torn, kept := errors.New("the disk is full"), []string{}
	keep := func(identity string) error {
		v, err := h.Volume(r.id.String())
		if err != nil || v.Device != "" {
			t.Errorf("when the identity is to be kept there is %+v, %v", v, err)
		}
		kept = append(kept, identity)
		if len(kept) == 1 {
			return torn
		}
		return nil
	}
	attach := func(last *string) (enginepod.Device, error) {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		return devices.Attach(ctx, control.Attach{BlockBytes: 4096}, r.engine(), last, keep)
	}
	none := ""
	if _, err := attach(&none); !errors.Is(err, torn) {
		t.Fatalf("attach: %v, want the error of keeping", err)
	}
	if v, err := h.Volume(r.id.String()); err != nil || v.Leased || v.Device != "" {
		t.Errorf("after that: %+v, %v", v, err)
	}
	device, err := attach(&none)
	if err != nil {
		t.Fatal(err)
	}
	if len(kept) != 2 || kept[0] == "" || kept[0] == kept[1] {
		t.Errorf("kept: %q", kept)
	}
	if v, err := h.Volume(r.id.String()); err != nil || v.Device != device.Path() || filepath.Dir(v.Device) != "/dev" {
		t.Errorf("attached: %+v, %v", v, err)
	}
	if err := device.Detach(within(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
}
