package noderole

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine/frontend/conformance"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// shelf is a holder of one volume, an API server, and a clock.
type shelf struct {
	now        time.Time
	leased     bool
	spell      uint64
	unserved   time.Time
	attested   string
	gone       bool  // the device was taken away
	refusal    error // of Revoke
	attachment string
	failure    error // of the API server
	asked      int
}

func (s *shelf) Volumes() []holder.Volume {
	if s.gone {
		return nil
	}
	return []holder.Volume{{ID: volumeID, Leased: s.leased, Device: "/dev/loop7", Attachment: s.attested}}
}

func (s *shelf) Attest(_, attachment string) error {
	s.attested = attachment
	return nil
}

func (s *shelf) Unserved() []holder.Unserved {
	if s.leased || s.gone {
		return nil
	}
	return []holder.Unserved{{ID: volumeID, Spell: s.spell, For: s.now.Sub(s.unserved), Attachment: s.attested}}
}

func (s *shelf) Revoke(_ context.Context, u holder.Unserved) error {
	if s.leased || u.Spell != s.spell {
		return holder.ErrLeased
	}
	if s.refusal == nil {
		s.gone = true
	}
	return s.refusal
}

func (s *shelf) ask(context.Context, string) (string, error) {
	s.asked++
	return s.attachment, s.failure
}

func (s *shelf) lease()   { s.leased, s.spell = true, s.spell+1 }
func (s *shelf) unlease() { s.leased, s.unserved = false, s.now }

// look is what a revoker does each time.
func look(t *testing.T, r *revoker) {
	t.Helper()
	r.attestServed(t.Context())
	r.judge(t.Context())
}

// TestRevoker: a device is taken away when all that has to hold does, and never
// before. Each case is a history of a volume that was attached and served; a step
// changes something, the clock then goes on, and the revoker looks.
func TestRevoker(t *testing.T) {
	const after, again = 60 * time.Second, 30 * time.Second
	type step struct {
		does func(*shelf)
		wait time.Duration
		gone bool // after it
	}
	nothing := func(*shelf) {}
	detached := func(s *shelf) { s.attachment = "" }
	cut := func(s *shelf) { s.unlease(); s.attachment = "" }
	down := func(s *shelf) { s.failure = errors.New("no route to host") }
	up := func(s *shelf) { s.failure = nil }
	for name, steps := range map[string][]step{
		"moved away":                         {{cut, 59 * time.Second, false}, {nothing, time.Second, false}, {nothing, 29 * time.Second, false}, {nothing, time.Second, true}},
		"engine lives":                       {{detached, time.Hour, false}, {nothing, time.Hour, false}},
		"attached, no engine":                {{(*shelf).unlease, time.Hour, false}, {nothing, time.Hour, false}},
		"attached anew":                      {{cut, time.Hour, false}, {func(s *shelf) { s.attachment = "uid-2" }, time.Hour, false}, {nothing, time.Hour, false}},
		"attached and gone again":            {{cut, time.Hour, false}, {func(s *shelf) { s.attachment = "uid-2" }, time.Hour, false}, {detached, time.Second, false}, {nothing, again, true}},
		"API away":                           {{func(s *shelf) { cut(s); down(s) }, time.Hour, false}, {nothing, time.Hour, false}},
		"API away between the answers":       {{cut, time.Hour, false}, {down, time.Hour, false}, {up, time.Second, false}, {nothing, again, true}},
		"engine came between the answers":    {{cut, time.Hour, false}, {func(s *shelf) { s.lease(); s.unlease() }, time.Hour, false}, {nothing, again, true}},
		"engine came and stays":              {{cut, time.Hour, false}, {(*shelf).lease, time.Hour, false}},
		"revoke fails":                       {{cut, time.Hour, false}, {func(s *shelf) { s.refusal = errors.New("busy") }, again, false}, {func(s *shelf) { s.refusal = nil }, time.Second, true}},
		"attachment never seen by its name":  {{func(s *shelf) { cut(s); s.attested = "" }, time.Hour, false}, {nothing, time.Hour, false}},
		"without an engine for moments only": {{cut, 59 * time.Second, false}, {func(s *shelf) { s.lease(); s.unlease() }, 59 * time.Second, false}},
	} {
		s := &shelf{now: time.Unix(1, 0), attachment: "uid-1"}
		s.lease()
		r := &revoker{kept: s, attachment: s.ask, after: after, again: again, now: func() time.Time { return s.now }, log: slog.New(slog.DiscardHandler)}
		look(t, r)
		if s.attested != "uid-1" {
			t.Errorf("%s: attested %q", name, s.attested)
		}
		for i, step := range steps {
			step.does(s)
			s.now = s.now.Add(step.wait)
			look(t, r)
			if s.gone != step.gone {
				t.Errorf("%s: step %d: gone %t", name, i, s.gone)
			}
		}
	}
}

// TestRevokerAsksSeldom: of a device that is served, and whose attachment is known,
// nobody is asked, nor of one that has just lost its engine.
func TestRevokerAsksSeldom(t *testing.T) {
	s := &shelf{now: time.Unix(1, 0)}
	s.lease()
	r := &revoker{kept: s, attachment: s.ask, after: time.Minute, again: time.Minute, now: func() time.Time { return s.now }, log: slog.New(slog.DiscardHandler)}
	lookAfter := func(asked int) {
		t.Helper()
		if look(t, r); s.asked != asked {
			t.Errorf("asked %d times, want %d", s.asked, asked)
		}
	}
	lookAfter(1)
	lookAfter(2) // there was none
	s.attachment = "uid-1"
	lookAfter(3)
	lookAfter(3)
	s.unlease()
	s.now = s.now.Add(59 * time.Second)
	lookAfter(3)
	s.now = s.now.Add(time.Second)
	lookAfter(4)
}

// TestRevokerLogsOneError: an API server that is away is told of once, and again
// after it was there.
func TestRevokerLogsOneError(t *testing.T) {
	var lines strings.Builder
	s := &shelf{now: time.Unix(1, 0), failure: errors.New("no route to host")}
	s.lease()
	r := &revoker{kept: s, attachment: s.ask, now: func() time.Time { return s.now }, log: slog.New(slog.NewTextHandler(&lines, nil))}
	for range 3 {
		look(t, r)
	}
	s.failure = nil
	look(t, r)
	s.failure = errors.New("no route to host")
	look(t, r)
	if got := strings.Count(lines.String(), "no route to host"); got != 2 {
		t.Errorf("%d lines, want 2: %s", got, lines.String())
	}
}

// TestStaleDevice has a plugin lose a volume whose device is published and read: while
// the API server has the attachment, or does not answer, who reads waits for the next
// engine, and gets it. When there is no attachment nor engine he gets an error, and the
// kubelet can take away what it has published.
func TestStaleDevice(t *testing.T) {
	p := startPlugin(t)
	p.stop()
	api := startAttachments(t)
	var err error
	if p.cfg.Attachment, err = NodeAttachment(api.config(), "csi.example", "n1"); err != nil {
		t.Fatal(err)
	}
	p.cfg.StaleAfter, p.cfg.StaleAgain = 20*time.Millisecond, 10*time.Millisecond
	var log locked
	p.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	api.attach(volumeID, "uid-1")
	p.start()

	dir := t.TempDir()
	staging, target := filepath.Join(dir, "staging"), filepath.Join(dir, "target")
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	asBlock := &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}, AccessMode: mountCapability.GetAccessMode()}
	dev := conformance.NewMemory(1 << 20)
	e := p.startEngine(dev)
	_, err = p.csi.NodePublishVolume(p.context(), &csi.NodePublishVolumeRequest{VolumeId: volumeID, StagingTargetPath: staging, TargetPath: target, VolumeCapability: asBlock})
	must(t, err)
	api.await(t, 1) // which is whether the volume is attached
	e.die()
	read := readWaiting(t, target)
	api.await(t, api.count()+3)
	api.fail(true)
	api.await(t, api.count()+3)
	api.detach(volumeID)
	api.await(t, api.count()+3)
	e = p.startEngine(dev)
	if err := awaitRead(t, read); err != nil {
		t.Errorf("read of a device that was this node's, or may have been: %v", err)
	}
	p.wantMetric(`lockstep_node_takeovers_total 1`)
	if err := awaitRead(t, readSector(t, target)); err != nil {
		t.Errorf("read of a device that has an engine: %v", err)
	}

	e.die()
	read = readWaiting(t, target) // for which the device is there: nobody can be asked yet
	api.await(t, api.count()+3)
	api.fail(false)
	if err := awaitRead(t, read); err == nil || !strings.Contains(err.Error(), "Input/output error") {
		t.Errorf("read of a device that is this node's no more: %v, want an I/O error", err)
	}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(p.get(p.cfg.MetricsAddr, "/metrics"), "lockstep_node_revoked_total 1\n"); {
		if time.Now().After(deadline) {
			t.Fatal("the device is not taken away")
		}
	}
	p.wantMetric(`lockstep_node_volumes{state="waiting"} 0`)
	if text := log.String(); !strings.Contains(text, "is taken away") || !strings.Contains(text, "volume="+volumeID) || !strings.Contains(text, "attachment=uid-1") {
		t.Errorf("the log does not tell: %s", text)
	}
	must(t, p.unpublish(target))
	must(t, p.unstage(staging))
}

// readSector reads a sector of a device, past the page cache, in the background: in a
// process of its own, because one that waits for itself cannot be ended.
func readSector(t *testing.T, device string) <-chan error {
	t.Helper()
	dd := exec.Command("dd", "if="+device, "of=/dev/null", "bs=4096", "count=1", "iflag=direct")
	var said bytes.Buffer
	dd.Stderr = &said
	must(t, dd.Start())
	result := make(chan error, 1)
	go func() {
		err := dd.Wait()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, said.String())
		}
		result <- err
	}()
	return result
}

// readWaiting is readSector of a device that nobody serves, and returns once the read
// has reached it.
func readWaiting(t *testing.T, device string) <-chan error {
	t.Helper()
	var node unix.Stat_t
	must(t, unix.Stat(device, &node))
	// Reads and writes under way, see the kernel's Documentation/block/stat.rst.
	inFlight := fmt.Sprintf("/sys/dev/block/%d:%d/inflight", unix.Major(node.Rdev), unix.Minor(node.Rdev))
	result := readSector(t, device)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		text, err := os.ReadFile(inFlight)
		must(t, err)
		if fields := strings.Fields(string(text)); len(fields) == 2 && fields[0] != "0" {
			return result
		}
		if time.Now().After(deadline) {
			t.Fatal("no read reaches the device")
		}
	}
}

// awaitRead is what came of a read.
func awaitRead(t *testing.T, result <-chan error) error {
	t.Helper()
	select {
	case err := <-result:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the read waits")
		return nil
	}
}
