package node

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// TestWhileUnused: a device is free when it is neither staged nor published, also
// where nobody has opened it yet, and stays so for as long as it has to.
func TestWhileUnused(t *testing.T) {
	needRoot(t)
	m := newMachine(t)
	m.cfg.LockWait = 50 * time.Millisecond
	v := m.attach("a", 32*mib)
	check := func(when string, want error) {
		t.Helper()
		called := false
		err := m.WhileUnused(context.Background(), v.id, v.device(), func() error { called = true; return nil })
		if !errors.Is(err, want) || called != (want == nil) {
			t.Errorf("%s: %v, called %t, want %v", when, err, called, want)
		}
	}
	check("attached", nil)

	mounted := mountCapability("ext4")
	ok(t, v.stage(m.Server, mounted))
	check("staged", ErrInUse)
	ok(t, v.publish(m.Server, mounted, v.target, false))
	check("published", ErrInUse)
	ok(t, v.unpublish(m.Server, v.target), v.unstage(m.Server))
	check("unstaged", nil)

	block := blockCapability()
	ok(t, v.stage(m.Server, block))
	check("staged as a block device", nil) // which does nothing
	ok(t, v.publish(m.Server, block, v.target, false))
	check("published as a block device, and not open", ErrInUse)
	ok(t, v.unpublish(m.Server, v.target), v.unstage(m.Server))

	err := m.WhileUnused(context.Background(), v.id, v.device(), func() error {
		wantCode(t, v.stage(m.Server, mounted), codes.Aborted)
		wantCode(t, v.publish(m.Server, block, v.target, false), codes.Aborted)
		return errors.New("it failed")
	})
	if err == nil || err.Error() != "it failed" {
		t.Errorf("error of what was called: %v", err)
	}
	ok(t, v.stage(m.Server, mounted), v.unstage(m.Server))
}

// TestInTurn: nothing is staged or published meanwhile, and who has no turn does
// nothing.
func TestInTurn(t *testing.T) {
	needRoot(t)
	m := newMachine(t)
	m.cfg.LockWait = 50 * time.Millisecond
	v := m.attach("a", 32*mib)
	err := m.InTurn(context.Background(), v.id, func() error {
		wantCode(t, v.stage(m.Server, mountCapability("ext4")), codes.Aborted)
		brief, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		if err := m.InTurn(brief, v.id, func() error { return errors.New("called out of turn") }); !errors.Is(err, ErrBusy) {
			t.Errorf("a second turn: %v, want ErrBusy", err)
		}
		return errors.New("it failed")
	})
	if err == nil || err.Error() != "it failed" {
		t.Errorf("error of what was called: %v", err)
	}
	ok(t, v.stage(m.Server, mountCapability("ext4")), v.unstage(m.Server))
}
