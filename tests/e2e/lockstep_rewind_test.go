//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

// groupAnnotation puts a claim into a group.
const groupAnnotation = "lockstep.dev/group"

// rewinding is PostgreSQL on two claims of one group, under load.
type rewinding struct {
	*Namespace
	t      *testing.T
	p      *Postgres
	orders *harness.Ledger
	load   chan error // pgbench's end
}

// TestLockstepRewind changes the group of PostgreSQL's two claims under load,
// drops a table, and goes back to the second before; undoes that, goes to
// another point, and stays there.
func TestLockstepRewind(t *testing.T) {
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	class := ns.Class(Class{Over: env.BackingClasses[0]})
	r := &rewinding{Namespace: ns, t: t, load: make(chan error, 1)}
	r.p = ns.RunPostgres(PostgresSpec{Name: "db", DataClass: class, WALClass: class, ClaimAnnotations: map[string]string{groupAnnotation: "draft"}})
	r.p.CreateDatabase(1)
	r.orders = r.p.StartLedger("orders", 2)
	go func() {
		_, err := r.p.Pgbench(t.Context(), 2, loadTimeout) // until its pod is stopped
		r.load <- err
	}()
	r.await(20)
	r.regroup("draft", "shop")
	r.await(20)
	first := time.Now()
	ns.AwaitPoint("shop", first)
	r.await(20)
	dropped := r.drop()
	r.backTo(dropped)
	r.undo()
	r.backTo(first)
	r.commit()
}

// await waits until n more orders are acknowledged.
func (r *rewinding) await(n int) {
	r.t.Helper()
	awaitOrders(r.t, r.orders, n)
}

// awaitOrders waits until n more orders of a ledger are acknowledged.
func awaitOrders(t *testing.T, orders *harness.Ledger, n int) {
	t.Helper()
	before := orders.Acked()
	WaitFor(t, podTimeout, fmt.Sprintf("%d acknowledged orders", n), func(context.Context) error {
		if err := orders.Err(); err != nil {
			return Final(err)
		}
		if acked := orders.Acked() - before; acked < n {
			return fmt.Errorf("there are %d", acked)
		}
		return nil
	})
}

// regroup has the claims change their group while they are written.
func (r *rewinding) regroup(from, to string) {
	r.t.Helper()
	began := time.Now()
	for _, claim := range []string{r.p.DataClaim, r.p.WALClaim} {
		r.modifyClaim(claim, func(c *corev1.PersistentVolumeClaim) { c.Annotations[groupAnnotation] = to })
	}
	changed := time.Now()
	r.AwaitGroup(to, "to have both members, and a point of both", func(s *v1alpha1.ConsistencyGroupStatus) error {
		if s.MemberCount != 2 || s.NewestPoint == nil || s.NewestPoint.Time.Time.Before(changed) {
			return fmt.Errorf("it has %d members and newest point %v", s.MemberCount, s.NewestPoint)
		}
		return nil
	})
	done := time.Now()
	WaitFor(r.t, groupTimeout, "group "+from+" to go", func(ctx context.Context) error {
		_, err := r.Group(ctx, from)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is there"), err)
	})
	Report(r.t, Figure{Name: "two claims under PostgreSQL change their group", Got: done.Sub(began).Seconds(), Unit: "s"})
	Report(r.t, Figure{Name: "longest pause of a client meanwhile", Got: r.orders.LongestPause(began, done).Seconds(), Unit: "s"})
	if err := r.orders.Err(); err != nil {
		r.t.Errorf("under a change of groups: %v", err)
	}
}

// drop drops the ledger's table, and returns the second before. All that was
// acknowledged until then is in a recovery point.
func (r *rewinding) drop() time.Time {
	r.t.Helper()
	before := time.Now().Truncate(time.Second)
	r.AwaitPoint("shop", before.Add(time.Second))
	select {
	case err := <-r.load:
		r.t.Fatalf("the load has ended: %v", err)
	default:
	}
	before = time.Now().Truncate(time.Second)
	if _, err := r.p.Query(r.t.Context(), "DROP TABLE orders"); err != nil {
		r.t.Fatal(err)
	}
	r.orders.Stop()
	return before
}

// backTo rewinds to a moment and checks that the database is of then.
func (r *rewinding) backTo(at time.Time) {
	r.t.Helper()
	began := time.Now()
	back := r.Recover("rewind", "start", "shop", "--at", at.UTC().Format(time.RFC3339Nano))
	r.p.Await()
	r.report(back, "rewind", time.Since(began))
	if back.Time.After(at) {
		r.t.Errorf("asked for %s, and got the point of %s", at, back.Time)
	}
	found, err := r.orders.Check(r.t.Context(), r.p, back.Time)
	if err != nil {
		r.t.Fatal(err)
	}
	if found.Present == 0 || found.Acked == 0 {
		r.t.Errorf("nothing was tested: %+v", found)
	}
	r.t.Logf("rewound to %s, %s before the moment that was asked for: %d orders of %d acknowledged before it, of %d ever", back.Time.UTC().Format(time.RFC3339Nano),
		at.Sub(back.Time).Round(time.Millisecond), found.Present, found.Acked, found.AckedAll)
	if err := harness.CheckPgbench(r.t.Context(), r.p); err != nil {
		r.t.Error(err)
	}
}

// report prints how long a rewind or its undo took, without its pod's stop and
// start.
func (r *rewinding) report(done *Recovered, what string, all time.Duration) {
	r.t.Helper()
	own := done.between(v1alpha1.PhaseDetaching, v1alpha1.PhaseCompleted)
	if own <= 0 {
		r.t.Errorf("the phases of a %s are %v", what, done.Entered)
	}
	Report(r.t, Figure{Name: what + " of two claims, without the pod's stop and start", Got: own.Seconds(), Target: 2, Unit: "s"})
	r.t.Logf("%s: pods stopped in %s, detached in %s, rewound in %s, in all %s until the database answered", what,
		done.between(v1alpha1.PhaseQuiescing, v1alpha1.PhaseDetaching), done.between(v1alpha1.PhaseDetaching, v1alpha1.PhaseRewinding),
		done.between(v1alpha1.PhaseRewinding, v1alpha1.PhaseResuming), all.Round(time.Millisecond))
}

func (r *rewinding) undo() {
	r.t.Helper()
	began := time.Now()
	undone := r.Recover("rewind", "undo", "shop")
	r.p.Await()
	r.report(undone, "undo", time.Since(began))
	got, err := r.p.Query(r.t.Context(), "SELECT to_regclass('orders') IS NULL")
	if err != nil || got != "t" {
		r.t.Errorf("after the undo the table is gone: %q (%v)", got, err)
	}
	if err := harness.CheckPgbench(r.t.Context(), r.p); err != nil {
		r.t.Error(err)
	}
}

// commit gives up the way back, which is then refused.
func (r *rewinding) commit() {
	r.t.Helper()
	if _, err := r.Plugin(r.t.Context(), "--namespace", r.Namespace.Namespace, "rewind", "commit", "shop", "--yes"); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.Plugin(r.t.Context(), "--namespace", r.Namespace.Namespace, "rewind", "undo", "shop"); err == nil {
		r.t.Error("a rewind that was committed is undone")
	}
	if got, err := r.p.Query(r.t.Context(), "SELECT count(*) > 0 FROM orders"); err != nil || got != "t" {
		r.t.Errorf("after the commit: %q (%v)", got, err)
	}
}
