package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
)

var errCrash = errors.New("crash")

// Each operation is interrupted at its k-th commit, before or after it took
// effect, for every k: the controller starts again on what is durable, and the
// operation repeated by its caller succeeds.
func TestOperationsAreRepeatedAfterACrashAtEveryCommit(t *testing.T) {
	prepare := func(t *testing.T, _ *cluster, f *fleet.Fleet) {
		mustCreate(t, f, newVolume(1, "shop"))
		mustAttach(t, f, 1, "node1")
	}
	operations := []struct {
		name    string
		prepare func(*testing.T, *cluster, *fleet.Fleet)
		run     func(*testing.T, *fleet.Fleet) error
		check   func(*testing.T, *cluster, *fleet.Fleet)
	}{
		{"create", func(*testing.T, *cluster, *fleet.Fleet) {},
			func(t *testing.T, f *fleet.Fleet) error {
				_, err := f.CreateVolume(bounded(t), newVolume(1, "shop"))
				return err
			},
			func(t *testing.T, _ *cluster, f *fleet.Fleet) { mustAttach(t, f, 1, "node1") }},
		{"attach", func(t *testing.T, _ *cluster, f *fleet.Fleet) { mustCreate(t, f, newVolume(1, "shop")) },
			func(t *testing.T, f *fleet.Fleet) error {
				_, err := f.Attach(bounded(t), id(1), "node1", plain)
				return err
			},
			func(t *testing.T, c *cluster, f *fleet.Fleet) {
				write(t, c.device(id(1)), 1)
				takePoint(t, f, "shop")
			}},
		{"attach, answered early", func(t *testing.T, c *cluster, f *fleet.Fleet) {
			c.begin = func(context.Context, fleet.EngineSpec) error { return nil }
			mustCreate(t, f, newVolume(1, "shop"))
		},
			func(t *testing.T, f *fleet.Fleet) error {
				_, err := f.Attach(bounded(t), id(1), "node1", plain)
				return err
			},
			func(t *testing.T, c *cluster, f *fleet.Fleet) {
				attached(t, f, 1)
				write(t, c.device(id(1)), 1)
				until(t, "a point of the group, which is started behind the device", func() bool {
					_, _, err := f.Groups().TakePoint(bounded(t), "shop", "")
					return err == nil
				})
				mustDetach(t, f, 1)
				mustAttachLate(t, f, 1, "node2")
				expect(t, c.device(id(1)), 1)
			}},
		{"detach", prepare,
			func(t *testing.T, f *fleet.Fleet) error { return f.Detach(bounded(t), id(1)) },
			func(t *testing.T, _ *cluster, f *fleet.Fleet) { mustAttach(t, f, 1, "node2") }},
		{"move", func(t *testing.T, c *cluster, f *fleet.Fleet) {
			prepare(t, c, f)
			mustCreate(t, f, newVolume(2, "shop"))
			mustCreate(t, f, newVolume(3, "bank"))
		},
			func(t *testing.T, f *fleet.Fleet) error {
				return f.MoveVolume(bounded(t), id(1), "bank", group.Settings{})
			},
			func(t *testing.T, c *cluster, f *fleet.Fleet) {
				write(t, c.device(id(1)), 1)
				until(t, "a point of the new group with the volume", func() bool {
					p, _, err := f.Groups().TakePoint(bounded(t), "bank", "")
					return err == nil && len(p.Members) == 2
				})
				expectMembers(t, f, "shop", 2)
				expectMembers(t, f, "bank", 1, 3)
			}},
		{"move the last", prepare,
			func(t *testing.T, f *fleet.Fleet) error {
				return f.MoveVolume(bounded(t), id(1), "bank", group.Settings{})
			},
			func(t *testing.T, c *cluster, f *fleet.Fleet) {
				write(t, c.device(id(1)), 1)
				until(t, "a point of the new group", func() bool {
					_, _, err := f.Groups().TakePoint(bounded(t), "bank", "")
					return err == nil
				})
				if _, err := f.Groups().State("shop"); !errors.Is(err, group.ErrNotFound) {
					t.Errorf("a group without members is left: %v", err)
				}
			}},
		{"rewind", prepareRewind, rewindToGood,
			func(t *testing.T, c *cluster, f *fleet.Fleet) { expectBoth(t, c, f, 1) }},
		{"undo", func(t *testing.T, c *cluster, f *fleet.Fleet) {
			prepareRewind(t, c, f)
			if err := rewindToGood(t, f); err != nil {
				t.Fatal(err)
			}
		}, undoRewind,
			func(t *testing.T, c *cluster, f *fleet.Fleet) { expectBoth(t, c, f, 2) }},
		{"delete", func(t *testing.T, _ *cluster, f *fleet.Fleet) { mustCreate(t, f, newVolume(1, "shop")) },
			func(t *testing.T, f *fleet.Fleet) error { return deleteVolume(t, f, 1) },
			func(t *testing.T, c *cluster, f *fleet.Fleet) {
				if len(f.Volumes()) != 0 || len(c.backing) != 0 || len(f.Groups().Groups()) != 0 {
					t.Errorf("left: volumes %v, %d backing volumes, groups %v", f.Volumes(), len(c.backing), f.Groups().Groups())
				}
			}},
	}
	for _, op := range operations {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/after=%t", op.name, after), func(t *testing.T) {
				for k := 1; ; k++ {
					if !crashAt(t, k, after, op.prepare, op.run, op.check) {
						if k == 1 {
							t.Error("the operation makes no commit: nothing was tested")
						}
						return
					}
				}
			})
		}
	}
}

// crashAt reports whether the operation got as far as its k-th commit.
func crashAt(t *testing.T, k int, after bool, prepare func(*testing.T, *cluster, *fleet.Fleet), run func(*testing.T, *fleet.Fleet) error,
	check func(*testing.T, *cluster, *fleet.Fleet)) bool {
	c := newCluster(t)
	f := c.open()
	prepare(t, c, f)
	commits := 0
	dies := func() error {
		commits++
		if commits >= k {
			return errCrash // and nothing is committed any more
		}
		return nil
	}
	hooks := kv.Hooks{BeforeCommit: dies}
	if after {
		// The k-th commit takes effect, and nobody is told.
		hooks = kv.Hooks{BeforeCommit: func() error {
			if commits >= k {
				return errCrash
			}
			return nil
		}, AfterCommit: dies}
	}
	c.db.SetHooks(hooks)
	err := run(t, f)
	c.db.SetHooks(kv.Hooks{})
	closeFleet(t, f)
	crashed := commits >= k
	if err != nil && !crashed {
		t.Fatalf("crash at commit %d: %v", k, err)
	}
	c.db = c.db.Clone()
	f = c.open()
	defer closeFleet(t, f)
	if err := run(t, f); err != nil {
		t.Fatalf("repeated after a crash at commit %d: %v", k, err)
	}
	check(t, c, f)
	return crashed
}

func TestAnEngineThatDoesNotAnswerIsStoppedToDetach(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	write(t, c.device(id(1)), 4)
	closeFleet(t, f)
	c.deaf = true // to the next controller
	c.db = c.db.Clone()
	f = c.open()
	defer closeFleet(t, f)
	mustDetach(t, f, 1)
	if node := c.node(id(1)); node != "" {
		t.Errorf("an engine is left on %s", node)
	}
	c.deaf = false
	mustAttach(t, f, 1, "node2")
	expect(t, c.device(id(1)), 4)
}
