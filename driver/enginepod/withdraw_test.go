package enginepod_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	enginev1 "github.com/lockstep-csi/lockstep/api/engine/v1"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// attached is an engine that serves its device.
func attached(t *testing.T) (r *rig, o control.Orders) {
	t.Helper()
	r = newRig(t, newNetwork(), 1)
	o = r.primary(1, 1)
	o.Attach = &control.Attach{BlockBytes: 512}
	r.order(o)
	return r, o
}

// resumed waits until an engine that was started again has carried out what it was
// last ordered.
func (r *rig) resumed(revision uint64) control.State {
	r.t.Helper()
	for {
		s, changed := r.pod.State()
		if s.Revision == revision {
			return s
		}
		select {
		case <-changed:
		case <-r.t.Context().Done():
			r.t.Fatal("orders are not carried out")
		}
	}
}

func TestADeviceIsWithdrawnWhileNothingUsesIt(t *testing.T) {
	r, o := attached(t)
	without := r.primary(1, 2)
	r.node.attached().busy = true
	for _, orders := range []*control.Orders{nil, &without} {
		if _, err := r.client.Withdraw(ctx, orders); !errors.Is(err, control.ErrDeviceInUse) {
			t.Fatalf("withdraw a device in use with %v: %v, want ErrDeviceInUse", orders, err)
		}
	}
	if s, _ := r.pod.State(); s.Device == "" || s.Revision != 1 {
		t.Errorf("after a refusal: %+v", s)
	}
	write(t, r.node.attached(), 0, 1) // it goes on
	r.stop()
	r.start()
	if s := r.resumed(1); s.Device == "" {
		t.Error("a refused withdrawal is carried out by the next process")
	}

	if s, err := r.client.Withdraw(ctx, nil); err != nil || s.Device == "" {
		t.Errorf("look: %+v, %v", s, err)
	}
	if _, err := r.client.Withdraw(ctx, &o); err == nil {
		t.Error("orders with a device withdraw it")
	}
	s, err := r.client.Withdraw(ctx, &without)
	if err != nil || s.Device != "" || s.Revision != 2 || r.node.attached() != nil {
		t.Fatalf("withdraw: %+v, %v", s, err)
	}
	if _, err := r.client.Withdraw(ctx, &without); err != nil {
		t.Errorf("again: %v", err)
	}
	r.stop()
	r.start()
	if s := r.resumed(2); s.Device != "" {
		t.Error("the next process serves a device that was withdrawn")
	}
	stale := r.primary(1, 1)
	if _, err := r.client.Withdraw(ctx, &stale); !errors.Is(err, control.ErrStaleOrder) {
		t.Errorf("older orders: %v, want ErrStaleOrder", err)
	}
	o.Revision = 3
	if s := r.order(o); s.Device == "" {
		t.Error("the device does not come back")
	}
	expect(t, r.node.attached(), 0, 1)
}

// A fork under a device would leave the kernel with pages of another timeline.
func TestAnEngineWithADeviceDoesNotFork(t *testing.T) {
	r, _ := attached(t)
	write(t, r.node.attached(), 0, 1)
	at := r.engine().Store().Tip()
	write(t, r.node.attached(), 0, 2)
	if err := r.client.Fork(ctx, at, "rewind 1"); !errors.Is(err, control.ErrDeviceInUse) {
		t.Errorf("fork under a device: %v, want ErrDeviceInUse", err)
	}
	without := r.primary(1, 2)
	if _, err := r.client.Withdraw(ctx, &without); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.client.Fork(ctx, at, "rewind 1"); err != nil {
			t.Fatal(err)
		}
	}
	o := r.primary(1, 3)
	o.Attach = &control.Attach{BlockBytes: 512}
	r.order(o)
	expect(t, r.node.attached(), 0, 1)

	// Nor one that is to have a device and has none yet: that of the process before
	// may be in use.
	r.node.mu.Lock()
	r.node.fail = errors.New("no holder answers")
	r.node.mu.Unlock()
	r.stop()
	r.start()
	if err := r.client.Fork(ctx, at, "rewind 2"); !errors.Is(err, control.ErrDeviceInUse) {
		t.Errorf("fork before the device is taken over: %v, want ErrDeviceInUse", err)
	}
	for _, orders := range []*control.Orders{nil, {Volume: r.id, Term: 1, Revision: 4, Group: "shop", Role: control.Primary}} {
		if _, err := r.client.Withdraw(ctx, orders); !errors.Is(err, control.ErrDeviceInUse) {
			t.Errorf("withdraw before the device is taken over: %v, want ErrDeviceInUse", err)
		}
	}
}

// When it is not known what became of the device the process ends, and the next one
// serves what it finds.
func TestAWithdrawalThatIsTornEndsTheProcess(t *testing.T) {
	r, _ := attached(t)
	write(t, r.node.attached(), 0, 1)
	torn := errors.New("the holder did not answer in time")
	r.node.attached().torn = torn
	without := r.primary(1, 2)
	if _, err := r.client.Withdraw(ctx, &without); err == nil || errors.Is(err, control.ErrDeviceInUse) {
		t.Errorf("withdraw: %v", err)
	}
	select {
	case err := <-r.pod.Fatal():
		if !errors.Is(err, torn) {
			t.Error(err)
		}
	default:
		t.Error("the process goes on")
	}
	r.stop()
	r.start()
	if s := r.resumed(1); s.Device == "" {
		t.Error("the next process serves no device")
	}
	expect(t, r.node.attached(), 0, 1)
}

// oldEngine is of a version that knows nothing of withdrawals.
type oldEngine struct {
	enginev1.UnimplementedEngineServer
}

func TestAnEngineThatCannotKnowIsInUse(t *testing.T) {
	n, id := newNetwork(), journal.VolumeID{1}
	l, srv := bufconn.Listen(1<<20), grpc.NewServer()
	enginev1.RegisterEngineServer(srv, oldEngine{})
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(l) })
	defer serving.Wait()
	defer srv.Stop()
	n.listeners[id.String()] = l
	conn, err := n.dial(id.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := control.NewClient(id, conn).Withdraw(ctx, nil); !errors.Is(err, control.ErrDeviceInUse) {
		t.Errorf("withdraw: %v, want ErrDeviceInUse", err)
	}
}

// A device that is withdrawn is gone before its orders are. Where these cannot be noted, or
// carried out, at the moment, whoever withdrew it is told, and may not order again: the engine
// has what its newest orders say all the same.
func TestAWithdrawalThatFailsIsFollowedUp(t *testing.T) {
	for name, c := range map[string]struct {
		commit   int64 // of the withdrawal, that fails
		revision uint64
		device   bool
	}{
		"its orders are not noted":                      {1, 1, true},
		"that there is no device any more is not noted": {2, 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, newNetwork(), 1)
			r.stop()
			r.faults = vfs.NewFault(r.fs)
			r.files = r.faults
			r.start()
			o := r.primary(1, 1)
			o.Attach = &control.Attach{BlockBytes: 512}
			r.order(o)
			r.faults.FailAfter(c.commit, errDisk, vfs.OpCommit)
			without := r.primary(1, 2)
			if _, err := r.client.Withdraw(ctx, &without); err == nil {
				t.Fatal("the withdrawal has not failed")
			}
			over := time.After(20 * time.Second)
			for {
				s, changed := r.pod.State()
				if s.Revision == c.revision && (s.Device != "") == c.device && s.Error == "" {
					break
				}
				select {
				case <-changed:
				case <-over:
					t.Fatalf("nobody has followed it up: %+v", s)
				}
			}
			if s := r.resumed(c.revision); !c.device && r.client.Fork(ctx, s.Store.Tip, "rewind 1") != nil {
				t.Error("a volume whose device was withdrawn cannot fork")
			}
		})
	}
}
