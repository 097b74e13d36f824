package holder_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/node/holder"
)

// knownEnv is the identity of the device that an engine process knows; not set: it
// knows none, as one of an earlier version.
const knownEnv = "LOCKSTEP_TEST_KNOWN"

func knownByEnv() *string {
	if known, set := os.LookupEnv(knownEnv); set {
		return &known
	}
	return nil
}

// startEngineKnowing starts an engine that knows the identity of its volume's device.
func (n *node) startEngineKnowing(known, file string) *engineProcess {
	n.Helper()
	return n.startEngineAs("keeping-engine", "vol", file, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, knownEnv+"="+known) })
}

// record is what the holder has recorded of the volume.
func (n *node) record() map[string]any {
	n.Helper()
	raw, err := os.ReadFile(filepath.Join(n.mounts(), ".volumes", "vol.json"))
	if err != nil {
		n.Fatal(err)
	}
	var r map[string]any
	if err := json.Unmarshal(raw, &r); err != nil {
		n.Fatal(err)
	}
	return r
}

// identity is that of the volume's present mount; empty: it has none.
func (n *node) identity() string {
	n.Helper()
	text, _ := n.record()["identity"].(string)
	return text
}

// writeWaiting writes content to the first block of a device; nobody serves that.
func writeWaiting(t *testing.T, device string, content []byte) <-chan error {
	t.Helper()
	f := openDirect(t, device)
	p := alignedBuffer(t, 4096)
	copy(p, content)
	result := make(chan error, 1)
	go func() {
		_, err := f.WriteAt(p, 0)
		_ = f.Close()
		result <- err
	}()
	select {
	case err := <-result:
		t.Fatalf("a write without an engine ended: %v", err)
	case <-time.After(20 * time.Millisecond): // it waits; no longer is needed to see that
	}
	return result
}

func block(b byte) []byte { return bytes.Repeat([]byte{b}, 4096) }

// expectBlocks compares the first three blocks of what a volume is made of.
func expectBlocks(t *testing.T, file string, want ...byte) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range want {
		if got := content[i*4096 : (i+1)*4096]; !bytes.Equal(got, block(b)) {
			t.Errorf("block %d begins with %d, want %d", i, got[0], b)
		}
	}
}

// A volume is written elsewhere while its device waits here, and comes back: what users
// of the old device have written, and had no answer to or the kernel had not passed
// on, gets an I/O error and nowhere, and the volume has a new device.
func TestAnOutdatedDeviceIsTakenAway(t *testing.T) {
	for name, known := range map[string]string{"another device": "0123456789abcdef", "no device": ""} {
		t.Run(name, func(t *testing.T) {
			n := startInnerNode(t)
			file := n.newFile(1 << 20)
			engine := n.startKeepingEngine("vol", file)
			old := n.identity()
			cached, err := unix.Open(engine.device, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			engine.kill()
			n.unserved()
			if _, err := unix.Pwrite(cached, block(1), 4096); err != nil { // a whole page: the kernel keeps it
				t.Fatal(err)
			}
			waiting := writeWaiting(t, engine.device, block(1))
			newer := bytes.Repeat([]byte{2}, 1<<20)
			if err := os.WriteFile(file, newer, 0o600); err != nil {
				t.Fatal(err)
			}
			n.setTurn(func(do func() error) error {
				if v, err := n.holder.Volume("vol"); err != nil || v.Leased {
					t.Errorf("who waits for the new device is shown the old one: %+v, %v", v, err)
				}
				return do()
			})
			again := n.startEngineKnowing(known, file)
			if err := awaitResult(t, waiting); !errors.Is(err, unix.EIO) {
				t.Errorf("the write that waited: %v, want EIO", err)
			}
			if err := unix.Fsync(cached); !errors.Is(err, unix.EIO) {
				t.Errorf("sync of what the kernel had kept: %v, want EIO", err)
			}
			if again.device == engine.device {
				t.Errorf("%s has users, and is the volume's again", again.device)
			}
			if now := n.identity(); now == old || now == known || now == "" {
				t.Errorf("the new device has identity %q, the old one had %q", now, old)
			}
			if c := n.holder.Counters(); c.Revoked != 1 || c.Takeovers != 0 {
				t.Errorf("counted: %+v", c)
			}
			p := alignedBuffer(t, 4096)
			if _, err := openDirect(t, again.device).ReadAt(p, 0); err != nil || !bytes.Equal(p, block(2)) {
				t.Errorf("the new device begins with %d, %v", p[0], err)
			}
			if err := unix.Close(cached); err != nil {
				t.Error(err)
			}
			expectBlocks(t, file, 2, 2, 2)
			if !t.Failed() {
				n.awaitDetached(engine)
			}
			n.endWith(again)
		})
	}
}

// endWith leaves a node without its volume.
func (n *innerNode) endWith(engine *engineProcess) {
	n.Helper()
	n.setTurn(func(do func() error) error { return do() })
	engine.kill()
	if err := n.holder.Revoke(testContext(n), n.unserved()); err != nil {
		n.Error(err)
	}
}

// The device that the volume had last is taken over, also by an engine that does not
// know it, as one of an earlier version: a write that waited succeeds.
func TestTheKnownDeviceIsTakenOver(t *testing.T) {
	n := startInnerNode(t)
	file := n.newFile(1 << 20)
	engine := n.startKeepingEngine("vol", file)
	first, device := n.identity(), engine.device
	for i, start := range []func() *engineProcess{
		func() *engineProcess { return n.startEngineKnowing(first, file) },
		func() *engineProcess { return n.startKeepingEngine("vol", file) },
		func() *engineProcess { return n.startEngineKnowing(first, file) },
	} {
		engine.kill()
		waiting := writeWaiting(t, device, block(byte(i+1)))
		engine = start()
		if err := awaitResult(t, waiting); err != nil {
			t.Errorf("the write that waited: %v", err)
		}
		expectBlocks(t, file, byte(i+1))
		if now := n.identity(); engine.device != device || now != first {
			t.Errorf("%s of identity %q, before it was %s of %q", engine.device, now, device, first)
		}
	}
	if c := n.holder.Counters(); c.Revoked != 0 || c.Takeovers != 3 {
		t.Errorf("counted: %+v", c)
	}
	n.endWith(engine)
}

// A device keeps its identity over holders; one that an earlier version made has none,
// and is taken over by whoever comes.
func TestIdentitiesOverHolders(t *testing.T) {
	for _, drawn := range []bool{true, false} {
		n := startInnerNode(t)
		file := n.newFile(1 << 20)
		engine := n.startKeepingEngine("vol", file)
		device, known := engine.device, n.identity()
		if err := engine.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		n.end()
		if !drawn {
			known = "0123456789abcdef"
			r := n.record()
			delete(r, "identity")
			raw, err := json.Marshal(r)
			if err == nil {
				err = os.WriteFile(filepath.Join(n.mounts(), ".volumes", "vol.json"), raw, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		n.begin()
		if err := engine.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		n.await("the engine comes back", func() bool {
			v, err := n.holder.Volume("vol")
			return err == nil && v.Leased
		})
		engine.kill()
		waiting := writeWaiting(t, device, block(1))
		engine = n.startEngineKnowing(known, file)
		if err := awaitResult(t, waiting); err != nil || engine.device != device {
			t.Errorf("the write that waited: %v, on %s, which was %s", err, engine.device, device)
		}
		if drawn != (n.identity() == known) {
			t.Errorf("drawn %t, and it has %q", drawn, n.identity())
		}
		n.endWith(engine)
	}
}

// A call that waits in the kernel for an engine has the volume to itself, and must not
// keep an outdated device where it is.
func TestAnOutdatedDeviceIsTakenFromACallThatWaits(t *testing.T) {
	n := startInnerNode(t)
	client, err := holder.Dial(testContext(t), n.socket)
	if err != nil {
		t.Fatal(err)
	}
	session, err := client.Attach(testContext(t), holder.AttachConfig{Volume: "vol", BlockBytes: 512})
	if err != nil {
		t.Fatal(err)
	}
	brief, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if path, err := client.AttachLoop(brief, "vol"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("attach loop device that nobody serves: %q, %v", path, err)
	}
	_ = session.Conn.Close()
	_ = client.Close()
	engine := n.startEngineKnowing("0123456789abcdef", n.newFile(1<<20))
	if err := awaitResult(t, readSector(t, engine.device)); err != nil {
		t.Errorf("read of the new device: %v", err)
	}
	n.endWith(engine)
}

// While another call for the volume is under way no device is taken away, and none
// is handed out.
func TestAnOutdatedDeviceGoesInItsTurn(t *testing.T) {
	n := startInnerNode(t)
	file := n.newFile(1 << 20)
	engine := n.startKeepingEngine("vol", file)
	known := n.identity()
	engine.kill()
	n.unserved()
	n.setTurn(func(func() error) error { return errors.New("another call is under way") })
	none := ""
	attach := func() (*holder.Keeper, error) {
		return holder.Keep(testContext(t), holder.KeeperConfig{Socket: n.socket,
			AttachConfig: holder.AttachConfig{Volume: "vol", BlockBytes: 512, Known: &none}})
	}
	if keeper, err := attach(); err == nil {
		t.Errorf("attached out of turn, with identity %q", keeper.Identity())
		if err := keeper.Close(testContext(t)); err != nil {
			t.Error(err)
		}
	}
	n.setTurn(func(do func() error) error { return do() })
	keeper, err := attach()
	if err != nil {
		t.Fatal(err)
	}
	if now := keeper.Identity(); now == "" || now == known || now != n.identity() || keeper.Session().Takeover {
		t.Errorf("a device of identity %q, takeover %t", now, keeper.Session().Takeover)
	}
	if !t.Failed() {
		n.awaitDetached(engine)
	}
	if err := keeper.Detach(testContext(t), true); err != nil {
		t.Error(err)
	}
	if err := keeper.Close(testContext(t)); err != nil {
		t.Error(err)
	}
}
