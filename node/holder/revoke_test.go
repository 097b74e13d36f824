package holder_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/node/holder"
	"github.com/lockstep-csi/lockstep/node/loop"
)

// innerNode is a node whose holder is in this process, and its engines are not.
type innerNode struct {
	*node
	holder *holder.Holder
	end    func()
	// published: the device is at a pod, as a raw block volume is that nobody has claimed.
	published bool
	grace     time.Duration // Config.EndGrace

	mu   sync.Mutex
	turn func(do func() error) error // guarded by mu; of Config.Turn
}

func (n *innerNode) setTurn(turn func(do func() error) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.turn = turn
}

func startInnerNode(t *testing.T) *innerNode {
	t.Helper()
	requireKernel(t)
	n := &innerNode{node: &node{TB: t, dir: t.TempDir()}, turn: func(do func() error) error { return do() }, grace: time.Nanosecond}
	n.socket = filepath.Join(n.dir, "holder.sock")
	t.Cleanup(n.checkLeaks)
	n.begin()
	t.Cleanup(func() { n.end() })
	return n
}

// begin runs the node's next holder until end.
func (n *innerNode) begin() {
	n.Helper()
	h, err := holder.New(holder.Config{
		Socket: n.socket, Dir: n.mounts(), IdleTimeout: -1, Keep: true, EndGrace: n.grace,
		Unused: func(_ context.Context, _, _ string, do func() error) error {
			if n.published {
				return holder.ErrBusy
			}
			return do()
		},
		Turn: func(_ context.Context, volume string, do func() error) error {
			if volume != "vol" {
				n.Errorf("turn of volume %q", volume)
			}
			n.mu.Lock()
			turn := n.turn
			n.mu.Unlock()
			return turn(do)
		},
	})
	if err != nil {
		n.Fatal(err)
	}
	running, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(running) }()
	n.holder, n.end = h, func() {
		stop()
		if err := <-ended; err != nil {
			n.Error(err)
		}
		n.end = func() {}
	}
	n.await("the holder listens", func() bool { return h.Ready() == nil })
}

// unserved waits until the holder has one volume without an engine.
func (n *innerNode) unserved() holder.Unserved {
	n.Helper()
	var found []holder.Unserved
	n.await("the holder notices that the engine is gone", func() bool {
		found = n.holder.Unserved()
		return len(found) == 1
	})
	return found[0]
}

// awaitDetached waits until the device of an engine is gone. Its number may be
// another device's by then, of whoever attaches one.
func (n *innerNode) awaitDetached(e *engineProcess) {
	n.Helper()
	n.await(e.device+" goes with its last user", func() bool {
		now, err := loop.Get(e.attached.Number)
		if err != nil && !errors.Is(err, loop.ErrNotFound) {
			n.Fatal(err)
		}
		return err != nil || now.Seq != e.attached.Seq || now.Name() != e.attached.Name()
	})
}

// TestRevoke takes a device away from a file system and from a process that read
// it when the engine died: nobody waits any more, the device goes with the last
// of them, and the volume can be attached anew at once.
func TestRevoke(t *testing.T) {
	requireTools(t, "mkfs.ext4")
	n := startInnerNode(t)
	file := n.newFile(64 << 20)
	engine := n.startEngine("vol", file)
	run(t, "mkfs.ext4", "-q", engine.device)
	point := mountAt(t, engine.device, n.dir)
	writeSynced(t, filepath.Join(point, "kept"), []byte("yes"))
	if err := n.holder.Attest("vol", "uid-1"); err != nil {
		t.Fatal(err)
	}
	if found := n.holder.Unserved(); len(found) != 0 {
		t.Fatalf("unserved while its engine lives: %+v", found)
	}
	user, err := os.Open(engine.device)
	if err != nil {
		t.Fatal(err)
	}
	engine.kill()
	seen := n.unserved()
	if seen.ID != "vol" || seen.Attachment != "uid-1" {
		t.Errorf("unserved: %+v", seen)
	}
	waiting := readSector(t, engine.device)
	select {
	case err := <-waiting:
		t.Fatalf("a read without an engine ended: %v", err)
	case <-time.After(20 * time.Millisecond): // it waits; no longer is needed to see that
	}
	if err := n.holder.Revoke(testContext(t), seen); err != nil {
		t.Fatal(err)
	}
	if err := awaitResult(t, waiting); !errors.Is(err, unix.EIO) {
		t.Errorf("the read that waited: %v, want EIO", err)
	}
	if _, err := n.holder.Volume("vol"); !errors.Is(err, holder.ErrNotAttached) {
		t.Errorf("after the revoke: %v, want ErrNotAttached", err)
	}
	if got := n.holder.Counters().Revoked; got != 1 {
		t.Errorf("%d devices are counted", got)
	}
	if err := n.holder.Revoke(testContext(t), seen); !errors.Is(err, holder.ErrNotAttached) {
		t.Errorf("revoke again: %v, want ErrNotAttached", err)
	}

	again := n.startEngine("vol", file) // as when the volume comes back to this node
	if again.device == engine.device {
		t.Errorf("%s has users, and is the volume's again", again.device)
	}
	if v, err := n.holder.Volume("vol"); err != nil || v.Attachment != "" {
		t.Errorf("the new device: %+v, %v", v, err)
	}
	if err := syscall.Unmount(point, 0); err != nil {
		t.Errorf("unmount what is left: %v", err)
	}
	if err := user.Close(); err != nil {
		t.Error(err)
	}
	n.awaitDetached(engine)
	point = mountAt(t, again.device, n.dir)
	if got, err := os.ReadFile(filepath.Join(point, "kept")); err != nil || !bytes.Equal(got, []byte("yes")) {
		t.Errorf("on the new device: %q, %v", got, err)
	}
	if err := syscall.Unmount(point, 0); err != nil {
		t.Error(err)
	}
	again.kill()
	if err := n.holder.Revoke(testContext(t), n.unserved()); err != nil {
		t.Error(err)
	}
	n.awaitDetached(again)
}

// TestRevokeSparesEngines: what was seen before an engine came counts no more, also
// when that engine is gone again.
func TestRevokeSparesEngines(t *testing.T) {
	n := startInnerNode(t)
	file := n.newFile(1 << 20)
	engine := n.startEngine("vol", file)
	engine.kill()
	seen := n.unserved()
	engine = n.startEngine("vol", file)
	if err := n.holder.Revoke(testContext(t), seen); !errors.Is(err, holder.ErrLeased) {
		t.Errorf("revoke from an engine: %v, want ErrLeased", err)
	}
	if err := awaitResult(t, readSector(t, engine.device)); err != nil {
		t.Errorf("read after that: %v", err)
	}
	engine.kill()
	waiting := readSector(t, engine.device)
	now := n.unserved()
	if err := n.holder.Revoke(testContext(t), seen); !errors.Is(err, holder.ErrLeased) {
		t.Errorf("revoke by what was seen before: %v, want ErrLeased", err)
	}
	engine = n.startEngine("vol", file)
	if err := awaitResult(t, waiting); err != nil {
		t.Errorf("the read that waited for the third engine: %v", err)
	}
	engine.kill()
	if now.Spell == n.unserved().Spell {
		t.Error("two times without an engine are one")
	}
	if err := n.holder.Revoke(testContext(t), n.unserved()); err != nil {
		t.Error(err)
	}
}

// TestRevokeKeepsLeasesOut: an engine that comes in the middle does not get the old
// device, and the next time a new one.
func TestRevokeKeepsLeasesOut(t *testing.T) {
	n := startInnerNode(t)
	engine := n.startEngine("vol", n.newFile(1<<20))
	engine.kill()
	client, err := holder.Dial(testContext(t), n.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	attach := func() (takeover bool, err error) {
		session, err := client.Attach(testContext(t), holder.AttachConfig{Volume: "vol", BlockBytes: 512})
		if err == nil {
			_ = session.Conn.Close()
		}
		return session.Takeover, err
	}
	n.setTurn(func(do func() error) error {
		if _, err := attach(); !errors.Is(err, holder.ErrLeased) {
			t.Errorf("attach in the middle: %v, want ErrLeased", err)
		}
		if err := n.holder.Revoke(testContext(t), n.unserved()); !errors.Is(err, holder.ErrLeased) {
			t.Errorf("revoke in the middle: %v, want ErrLeased", err)
		}
		return do()
	})
	if err := n.holder.Revoke(testContext(t), n.unserved()); err != nil {
		t.Fatal(err)
	}
	if takeover, err := attach(); takeover || err != nil {
		t.Errorf("attach after it: takeover %t, %v", takeover, err)
	}
	if err := client.Detach(testContext(t), "vol", true); err != nil {
		t.Error(err)
	}
}

// TestRevokeInTheTurnOnly: with another call for the volume under way the device
// fails, and goes when its turn comes.
func TestRevokeInTheTurnOnly(t *testing.T) {
	n := startInnerNode(t)
	engine := n.startEngine("vol", n.newFile(1<<20))
	engine.kill()
	busy := errors.New("another call is under way")
	n.setTurn(func(func() error) error { return busy })
	if err := n.holder.Revoke(testContext(t), n.unserved()); !errors.Is(err, busy) {
		t.Errorf("revoke out of turn: %v", err)
	}
	if v, err := n.holder.Volume("vol"); err != nil || v.Device != engine.device {
		t.Errorf("out of turn: %+v, %v", v, err)
	}
	if err := awaitResult(t, readSector(t, engine.device)); !errors.Is(err, unix.EIO) {
		t.Errorf("read: %v, want EIO", err)
	}
	n.setTurn(func(do func() error) error { return do() })
	if err := n.holder.Revoke(testContext(t), n.unserved()); err != nil {
		t.Error(err)
	}
	n.awaitDetached(engine)
}

// TestUnservedOverHolders: a volume whose engine lives is not unserved for the next
// holder either, which knows what attached it.
func TestUnservedOverHolders(t *testing.T) {
	n := startInnerNode(t)
	if err := n.holder.Attest("vol", "uid-1"); !errors.Is(err, holder.ErrNotAttached) {
		t.Errorf("attest to no volume: %v, want ErrNotAttached", err)
	}
	engine := n.startKeepingEngine("vol", n.newFile(1<<20))
	if err := n.holder.Attest("vol", "uid-1"); err != nil {
		t.Fatal(err)
	}
	if err := engine.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	n.end()
	n.begin()
	if v, err := n.holder.Volume("vol"); err != nil || !v.Away || v.Attachment != "uid-1" {
		t.Errorf("with the next holder: %+v, %v", v, err)
	}
	if found := n.holder.Unserved(); len(found) != 0 {
		t.Errorf("unserved while its engine has not come back: %+v", found)
	}
	if err := engine.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	n.await("the engine comes back", func() bool {
		v, err := n.holder.Volume("vol")
		return err == nil && v.Leased
	})
	engine.kill()
	if seen := n.unserved(); seen.Attachment != "uid-1" {
		t.Errorf("unserved: %+v", seen)
	}
	if err := n.holder.Revoke(testContext(t), n.unserved()); err != nil {
		t.Error(err)
	}
}

// TestADeviceIsGivenUpInItsTurnOnly: a device that is dead, or taken away by force, keeps
// its number for as long as another call for the volume is under way, which may be about
// to format or to mount it by that number.
func TestADeviceIsGivenUpInItsTurnOnly(t *testing.T) {
	busy := errors.New("another call is under way")
	for name, giveUp := range map[string]func(n *innerNode, c *holder.Client) error{
		"detached by force": func(_ *innerNode, c *holder.Client) error { return c.Detach(testContext(t), "vol", true) },
		"detached":          func(_ *innerNode, c *holder.Client) error { return c.Detach(testContext(t), "vol", false) },
		"dead, and attached anew": func(n *innerNode, c *holder.Client) error {
			abortMount(t, filepath.Join(n.mounts(), "vol"))
			session, err := c.Attach(testContext(t), holder.AttachConfig{Volume: "vol", BlockBytes: 512})
			if err == nil {
				err = session.Conn.Close()
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := startInnerNode(t)
			engine := n.startEngine("vol", n.newFile(1<<20))
			engine.kill()
			n.unserved()
			client, err := holder.Dial(testContext(t), n.socket)
			if err != nil {
				t.Fatal(err)
			}
			n.setTurn(func(func() error) error { return busy })
			if err := giveUp(n, client); err == nil {
				t.Error("done out of turn")
			}
			if now, err := loop.Get(engine.attached.Number); err != nil || now.Seq != engine.attached.Seq {
				t.Errorf("out of turn the number is free: %+v, %v", now, err)
			}
			n.setTurn(func(do func() error) error { return do() })
			if err := giveUp(n, client); err != nil {
				t.Error(err)
			}
			n.awaitDetached(engine)
			if err := errors.Join(client.Detach(testContext(t), "vol", true), client.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTheEndWaitsForTheEngineOfAPublishedDevice: a raw block volume is not claimed by
// whoever uses it. A holder that ends while its engine is replaced waits for that one all
// the same, as for one that is mounted.
func TestTheEndWaitsForTheEngineOfAPublishedDevice(t *testing.T) {
	n := startInnerNode(t)
	n.end()
	n.published, n.grace = true, 20*time.Second
	n.begin()
	file := n.newFile(1 << 20)
	engine := n.startEngine("vol", file)
	engine.kill()
	n.unserved()
	waiting := readSector(t, engine.device)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.end()
	}()
	next := n.launchEngine("keeping-engine", "vol", file, nil)
	if err := awaitResult(t, waiting); err != nil {
		t.Errorf("the read that waited: %v", err)
	}
	<-ended
	n.published, n.grace = false, time.Nanosecond
	n.begin()
	n.awaitDevice(next)
	next.kill()
	if err := n.holder.Revoke(testContext(t), n.unserved()); err != nil {
		t.Error(err)
	}
}

// abortMount fails what is under way and all that comes of a FUSE mount, as a failed
// Revoke, or somebody with /sys/fs/fuse/connections, leaves it.
func abortMount(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Unmount(dir, unix.MNT_FORCE); err != nil && !errors.Is(err, unix.EBUSY) {
		t.Fatal(err)
	}
}
