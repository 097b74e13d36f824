package fleet_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// replicated makes a volume of group shop at a, writes it, and waits until b holds
// a point of it.
func replicated(t *testing.T, a *cluster, fa, fb *fleet.Fleet, n byte) {
	t.Helper()
	v := newVolume(n, "shop")
	v.Settings.ReplicateTo = "b"
	mustCreate(t, fa, v)
	mustAttach(t, fa, n, "node1")
	write(t, a.device(id(n)), n)
	p := takePoint(t, fa, "shop")
	until(t, "the replica to hold the point", func() bool {
		points, err := fb.Groups().Points(bounded(t), "shop")
		return err == nil && len(points) > 0 && points[len(points)-1].Checkpoint >= p.Checkpoint
	})
}

func isOrphaned(t *testing.T, f *fleet.Fleet) bool {
	t.Helper()
	st, err := f.Groups().State("shop")
	return err == nil && st.Role == group.RoleReplica && !st.Orphaned.IsZero()
}

func mustDelete(t *testing.T, f *fleet.Fleet, n byte) {
	t.Helper()
	mustDetach(t, f, n)
	if err := deleteVolume(t, f, n); err != nil {
		t.Fatal(err)
	}
}

// deleteVolume deletes a volume as the controller does.
func deleteVolume(t *testing.T, f *fleet.Fleet, n byte) error {
	t.Helper()
	if err := f.RetireVolume(bounded(t), id(n)); err != nil {
		return err
	}
	return f.DeleteVolume(bounded(t), id(n))
}

// A group that is deleted at its primary stays at its replica, which says so, and
// can be failed over to: deleting it may have been the mistake.
func TestAGroupThatWasDeletedStaysAtItsReplica(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	replicated(t, a, fa, fb, 1)
	mustDelete(t, fa, 1)
	until(t, "the replica to be orphaned", func() bool { return isOrphaned(t, fb) })
	out, err := fb.Groups().Failover(bounded(t), "shop", "latest", false)
	if err != nil {
		t.Fatal(err)
	}
	mustAttach(t, fb, 1, "node9")
	expect(t, b.device(id(1)), 1)
	st, err := fb.Groups().State("shop")
	if err != nil || !st.Orphaned.IsZero() || st.Settings.ReplicateTo != "" || st.Term != out.Term {
		t.Errorf("state %+v, %v: it is a primary of its own now", st, err)
	}
}

// A replica learns that its group was deleted also where one of its name is made anew, before
// the sites see each other again, which is replicated nowhere.
func TestAnEndIsToldAlthoughTheNameIsUsedAgain(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	replicated(t, a, fa, fb, 1)
	b.shut.Store(true)
	mustDelete(t, fa, 1)
	mustCreate(t, fa, newVolume(2, "shop"))
	mustAttach(t, fa, 2, "node1")
	b.shut.Store(false)
	until(t, "the replica to be orphaned", func() bool { return isOrphaned(t, fb) })
	st, err := fa.Groups().State("shop")
	if err != nil || st.Role != group.RolePrimary || len(st.Members) != 1 {
		t.Errorf("the group that was made anew: %+v, %v", st, err)
	}
}

// A group that is made anew under the name of one that was deleted is not taken
// for it: the replica of the old one stays, and the new primary stays primary,
// whatever terms the two had.
func TestAGroupMadeAnewIsAnotherOne(t *testing.T) {
	for _, failedOver := range []bool{false, true} {
		a, _, fa, fb := newPair(t)
		replicated(t, a, fa, fb, 1)
		mustDelete(t, fa, 1)
		if failedOver { // the old group is primary at b, at a higher term than the new one will have
			until(t, "the replica to be orphaned", func() bool { return isOrphaned(t, fb) })
			if _, err := fb.Groups().Failover(bounded(t), "shop", "latest", false); err != nil {
				t.Fatal(err)
			}
		}
		v := newVolume(2, "shop")
		v.Settings.ReplicateTo = "b"
		mustCreate(t, fa, v)
		mustAttach(t, fa, 2, "node1")
		until(t, "the new group to be refused", func() bool {
			s, err := fa.Groups().Summary(bounded(t), "shop")
			return err == nil && s.Sending != nil && errors.Is(s.Sending.LastError, replication.ErrOtherGroup)
		})
		if st, err := fa.Groups().State("shop"); err != nil || st.Role != group.RolePrimary {
			t.Errorf("failed over %t: the new group is %+v, %v", failedOver, st, err)
		}
		write(t, a.device(id(2)), 2)
		st, err := fb.Groups().State("shop")
		if err != nil || len(st.Members) != 1 || st.Members[0] != id(1) || st.Orphaned.IsZero() != failedOver {
			t.Errorf("failed over %t: the old group is %+v, %v", failedOver, st, err)
		}
		if !failedOver {
			if points, err := fb.Groups().Points(bounded(t), "shop"); err != nil || len(points) == 0 {
				t.Errorf("the points of the old group are lost: %d, %v", len(points), err)
			}
		}
		closeFleet(t, fa)
	}
}

// A member that is deleted at the primary stays at the replica as well, outside
// of the group, until it is removed there. What is fed cannot be removed.
func TestReplicasAreRemovedByHand(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	replicated(t, a, fa, fb, 1)
	replicated(t, a, fa, fb, 2)
	remove := func(n byte) error { return fb.RemoveReplica(bounded(t), id(n)) }
	if err := remove(1); !errors.Is(err, group.ErrRole) {
		t.Errorf("a replica that is fed is removed: %v", err)
	}
	mustDelete(t, fa, 2)
	until(t, "the member to leave its group", func() bool {
		v, err := fb.Volume(id(2))
		return err == nil && v.Retired
	})
	if err := remove(2); err != nil {
		t.Fatal(err)
	}
	if _, err := fb.Volume(id(2)); !errors.Is(err, fleet.ErrNotFound) || b.has(id(2)) {
		t.Errorf("the member that was removed: %v, backing volume there %t", err, b.has(id(2)))
	}
	mustDelete(t, fa, 1)
	until(t, "the replica to be orphaned", func() bool { return isOrphaned(t, fb) })
	if err := remove(1); err != nil {
		t.Fatal(err)
	}
	if _, err := fb.Groups().State("shop"); !errors.Is(err, group.ErrNotFound) {
		t.Errorf("the group is there still: %v", err)
	}
	if err := fa.RemoveReplica(bounded(t), id(1)); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("what is no replica: %v", err)
	}
	var none journal.VolumeID
	if err := fb.RemoveReplica(bounded(t), none); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("what is not there: %v", err)
	}
}

// What a replica does not have is sent to it also when nobody uses the volume any
// more, as soon as the peer can be reached. Then the engine may go.
func TestWhatIsNotDeliveredKeepsItsEngine(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	replicated(t, a, fa, fb, 1)
	to := a.peers["b"]
	a.setPeer("b", fleet.Peer{})
	if err := fa.PeerChanged(bounded(t), "b"); err != nil {
		t.Fatal(err)
	}
	write(t, a.device(id(1)), 7)
	p := takePoint(t, fa, "shop")
	mustDetach(t, fa, 1)
	until(t, "the engine to be gone", func() bool { return a.node(id(1)) == "" })
	a.setPeer("b", to)
	if err := fa.PeerChanged(bounded(t), "b"); err != nil {
		t.Fatal(err)
	}
	until(t, "the replica to hold the last point", func() bool {
		points, err := fb.Groups().Points(bounded(t), "shop")
		return err == nil && len(points) > 0 && points[len(points)-1].Checkpoint >= p.Checkpoint
	})
	until(t, "the engine to be gone again", func() bool { return a.node(id(1)) == "" })
	until(t, "the replica to know that its primary rests", func() bool {
		st, err := fb.Groups().State("shop")
		return err == nil && st.SourceRests
	})
	if _, err := fb.Groups().Failover(bounded(t), "shop", "latest", false); err != nil {
		t.Fatal(err)
	}
	mustAttach(t, fb, 1, "node9")
	expect(t, b.device(id(1)), 7)
}

// A claim of a volume that this site is the replica of may be deleted here, as
// after a failover to the other site. The replica stays, and is fed.
func TestDeletingAReplicasClaimLeavesTheReplica(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	replicated(t, a, fa, fb, 1)
	if err := errors.Join(fb.RetireVolume(bounded(t), id(1)), fb.DeleteVolume(bounded(t), id(1))); err != nil {
		t.Fatal(err)
	}
	write(t, a.device(id(1)), 5)
	p := takePoint(t, fa, "shop")
	until(t, "the replica to go on", func() bool {
		points, err := fb.Groups().Points(bounded(t), "shop")
		return err == nil && len(points) > 1 && points[len(points)-1].Checkpoint >= p.Checkpoint
	})
	// The last snapshot of before goes when this site is the primary, and what was kept
	// for its sake is deleted then: it is the copy in use.
	if _, err := fb.Groups().Failover(bounded(t), "shop", "latest", false); err != nil {
		t.Fatal(err)
	}
	if err := fb.DeleteVolume(bounded(t), id(1)); err != nil {
		t.Fatal(err)
	}
	mustAttach(t, fb, 1, "node9")
	expect(t, b.device(id(1)), 5)
}

// A volume that nobody has used has nothing to send, and no engine that would be
// on another node than its first user.
func TestAVolumeThatNobodyHasUsedHasNoEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		conn, err := grpc.NewClient("passthrough:b", grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		}()
		c.setPeer("b", fleet.Peer{Address: "b", Conn: conn})
		f := c.open()
		defer closeFleet(t, f)
		v := newVolume(1, "shop")
		v.Settings.ReplicateTo = "b"
		mustCreate(t, f, v)
		synctest.Wait()
		if on := c.node(id(1)); on != "" {
			t.Errorf("its engine runs on %s", on)
		}
	})
}

// A volume is deleted, or made, while its group is given up to a newer primary, which holds the
// group's key: it stays as the replica that it is by then, and no member comes to a replica's group.
func TestAReplicaChangesNoMembers(t *testing.T) {
	for name, change := range map[string]struct {
		do   func(context.Context, *fleet.Fleet) error
		want error
	}{
		"retire": {func(ctx context.Context, f *fleet.Fleet) error { return f.RetireVolume(ctx, id(1)) }, nil},
		"join": {func(ctx context.Context, f *fleet.Fleet) error {
			return f.Groups().Join(ctx, "shop", group.Settings{}, id(2))
		}, group.ErrRole},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				f := c.open()
				defer closeFleet(t, f)
				mustCreate(t, f, newVolume(1, "shop"))
				unlock, err := fleet.LockGroup(t.Context(), f, "shop")
				if err != nil {
					t.Fatal(err)
				}
				var waiting sync.WaitGroup
				defer waiting.Wait()
				waiting.Go(func() {
					if err := f.Groups().Standings().Demote(t.Context(), "shop", 5, "b"); err != nil {
						t.Error(err)
					}
				})
				synctest.Wait()
				waiting.Go(func() {
					if name == "join" { // its caller has the key
						unlock, err := fleet.LockGroup(t.Context(), f, "shop")
						if err != nil {
							t.Error(err)
							return
						}
						defer unlock()
					}
					if err := change.do(t.Context(), f); !errors.Is(err, change.want) {
						t.Errorf("%v, want %v", err, change.want)
					}
				})
				synctest.Wait()
				unlock()
				waiting.Wait()
				st, err := f.Groups().State("shop")
				if err != nil || st.Role != group.RoleReplica || !slices.Equal(st.Members, []journal.VolumeID{id(1)}) {
					t.Errorf("the replica's group: %+v, %v", st, err)
				}
				if v, err := f.Volume(id(1)); err != nil || v.Retired {
					t.Errorf("the replica's volume: retired %t, %v", v.Retired, err)
				}
			})
		})
	}
}
