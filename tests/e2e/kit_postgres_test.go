//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// TestKitPostgres runs PostgreSQL on two claims under load, kills its pod in
// the midst of it, and counts the orders that were acknowledged.
func TestKitPostgres(t *testing.T) {
	ctx := t.Context()
	ns := env.A.NewNamespace(t)
	class := env.BackingClasses[0]
	began := time.Now()
	p := ns.RunPostgres(PostgresSpec{Name: "shop", DataClass: class, WALClass: class})
	Report(t, Figure{Name: "PostgreSQL on two claims to ready, " + class, Got: time.Since(began).Seconds(), Unit: "s"})
	p.CreateDatabase(1)
	ledger := p.StartLedger("orders", 2)
	result, err := p.Pgbench(ctx, 2, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	Report(t, Figure{Name: "pgbench, 2 clients, " + class, Got: result.TPS, Unit: "TPS"})
	before, err := ns.Client.CoreV1().Pods(ns.Namespace).Get(ctx, p.Pod, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	ledger.Stop()
	WaitFor(t, podTimeout, "container of "+p.Pod+" to be started again", func(ctx context.Context) error {
		pod, err := ns.Client.CoreV1().Pods(ns.Namespace).Get(ctx, p.Pod, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if restarts(pod) == restarts(before) {
			return fmt.Errorf("no restart: %s", podState(pod))
		}
		return podReady(pod)
	})
	checkDatabase(t, p, ledger)
}

func restarts(pod *corev1.Pod) int32 {
	var n int32
	for _, status := range pod.Status.ContainerStatuses {
		n += status.RestartCount
	}
	return n
}

// checkDatabase compares a server's tables with what its ledger's clients
// know, and with each other.
func checkDatabase(t *testing.T, p *Postgres, ledger *harness.Ledger) {
	t.Helper()
	found, err := ledger.Check(t.Context(), p, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if found.AckedAll == 0 {
		t.Fatal("no order was acknowledged: nothing was tested")
	}
	t.Logf("%d orders acknowledged, %d in the table", found.AckedAll, found.Present)
	if err := harness.CheckPgbench(t.Context(), p); err != nil {
		t.Error(err)
	}
}

// TestKitLedgerFinds checks that a ledger finds an order that is missing.
func TestKitLedgerFinds(t *testing.T) {
	t.Parallel()
	ns := env.A.NewNamespace(t)
	class := env.BackingClasses[0]
	p := ns.RunPostgres(PostgresSpec{Name: "shop", DataClass: class, WALClass: class})
	p.CreateDatabase(1)
	ledger := p.StartLedger("orders", 2)
	WaitFor(t, podTimeout, "20 acknowledged orders", func(context.Context) error {
		if n := ledger.Acked(); n < 20 {
			return fmt.Errorf("there are %d (%v)", n, ledger.Err())
		}
		return nil
	})
	ledger.Stop()
	checkDatabase(t, p, ledger)
	// Of the session with the most orders: the other one may have had no time for two.
	deleted, err := p.Query(t.Context(), "DELETE FROM orders WHERE seq = 1 AND session = (SELECT session FROM orders GROUP BY session ORDER BY count(*) DESC LIMIT 1) RETURNING session")
	if err != nil || deleted == "" {
		t.Fatalf("delete an order of session %q: %v", deleted, err)
	}
	if _, err := ledger.Check(t.Context(), p, time.Now()); err == nil {
		t.Error("an order was deleted, and the ledger does not miss it")
	}
}
