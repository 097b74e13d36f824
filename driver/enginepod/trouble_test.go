package enginepod_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/enginepod"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// startHolder runs a holder in this process, for as long as the test.
func startHolder(t *testing.T, grace time.Duration) (h *holder.Holder, socket string) {
	t.Helper()
	dir := t.TempDir()
	socket = filepath.Join(dir, "holder.sock")
	h, err := holder.New(holder.Config{Socket: socket, Dir: filepath.Join(dir, "devices"), IdleTimeout: -1, Keep: true, TroubleGrace: grace})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- h.Run(running) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	for h.Ready() != nil {
		select {
		case err := <-ended:
			ended <- nil
			t.Fatalf("the holder ended: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	return h, socket
}

// awaitBriefly is what somebody is told who stages the volume and does not wait long.
func awaitBriefly(h *holder.Holder, volume string) error {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err := h.Await(ctx, volume)
	return err
}

// Who stages a volume hears from its engine why there is no device, and no more of it
// once that has passed.
func TestTheNodeHearsWhyThereIsNoDevice(t *testing.T) {
	h, socket := startHolder(t, time.Nanosecond)
	r := newRig(t, newNetwork(), 1)
	reporting, stop := context.WithCancel(ctx)
	reported := make(chan struct{})
	go func() {
		defer close(reported)
		enginepod.HolderDevices{Volume: r.id, Socket: socket, Log: slog.New(slog.DiscardHandler)}.Report(reporting, r.pod)
	}()
	r.node.fail = errors.New("the loop devices are used up")
	o := r.primary(1, 1)
	o.Attach = &control.Attach{BlockBytes: 4096}
	if _, err := r.client.Order(ctx, o); err == nil {
		t.Fatal("the order was carried out")
	}
	waiting, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if _, err := h.Await(waiting, r.id.String()); !errors.Is(err, holder.ErrTrouble) || !strings.Contains(err.Error(), "the loop devices are used up") {
		t.Errorf("who waits for the device is told %v", err)
	}
	if err := awaitBriefly(h, strings.Repeat("09", 16)); errors.Is(err, holder.ErrTrouble) {
		t.Errorf("who waits for another volume is told %v", err)
	}
	r.node.mu.Lock()
	r.node.fail = nil
	r.node.mu.Unlock()
	r.order(o)
	for errors.Is(awaitBriefly(h, r.id.String()), holder.ErrTrouble) {
		if waiting.Err() != nil {
			t.Fatal("the trouble is still told of")
		}
	}
	stop()
	<-reported
}

// What an engine has said is forgotten with it.
func TestTroubleEndsWithItsEngine(t *testing.T) {
	h, socket := startHolder(t, time.Nanosecond)
	client, err := holder.Dial(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	const volume = "v"
	if err := client.Trouble(ctx, volume, strings.Repeat("no ", 1000)); err != nil {
		t.Fatal(err)
	}
	if err := awaitBriefly(h, volume); !errors.Is(err, holder.ErrTrouble) || len(err.Error()) > 1200 {
		t.Errorf("await: %v", err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for errors.Is(awaitBriefly(h, volume), holder.ErrTrouble) {
		if time.Now().After(deadline) {
			t.Fatal("the holder remembers an engine that is gone")
		}
	}
}

// What passes soon is nobody's business.
func TestTroubleHasToLast(t *testing.T) {
	h, socket := startHolder(t, time.Hour)
	client, err := holder.Dial(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Trouble(ctx, "v", "not yet"); err != nil {
		t.Fatal(err)
	}
	if err := awaitBriefly(h, "v"); errors.Is(err, holder.ErrTrouble) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("await: %v", err)
	}
}
