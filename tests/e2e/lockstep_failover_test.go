//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

const (
	// failoverLoad is how long both groups are busy before the first site dies.
	failoverLoad = 4 * time.Second
	// returnTimeout is how long a site whose nodes were off may take to run its
	// pods again and to follow the other one.
	returnTimeout = 5 * time.Minute
)

// disaster is two sites with two groups: "shop", PostgreSQL on two claims, and
// "chain", two devices that one causal chain writes.
type disaster struct {
	t      *testing.T
	a, b   *Namespace
	class  string
	onA    *Postgres
	orders *harness.Ledger
	chain  *causalChain
	nodes  []string // of a
	killed time.Time
}

// TestLockstepFailover loses the first of two sites under load, goes on at the
// second one, lets the first come back as the replica, and returns.
func TestLockstepFailover(t *testing.T) {
	a, b := lockstepOnBoth(t)
	a.Kit(t)
	d := &disaster{t: t}
	t.Cleanup(d.removeReplicas) // when the namespaces are gone
	d.a = a.NewNamespace(t)
	d.b = d.a.Twin(b)
	d.start()
	d.replicaIsCausal()
	d.lose()
	onB := d.takeOver()
	payments := d.goOn(onB)
	d.comeBack()
	d.failBack(onB, payments)
	d.takeTurns(onB)
}

// start has both groups replicate from a to b under load.
func (d *disaster) start() {
	d.t.Helper()
	over := env.BackingClasses[0]
	// Replicas get the class that has the same name there.
	d.class = d.a.Class(Class{Over: over, Parameters: map[string]string{"replicateTo": "b"}})
	if there := d.b.Class(Class{Over: over, Parameters: map[string]string{"replicateTo": "a"}}); there != d.class {
		d.t.Fatalf("the classes are %s and %s", d.class, there)
	}
	d.onA = d.a.RunPostgres(PostgresSpec{Name: "shop", DataClass: d.class, WALClass: d.class, ClaimAnnotations: inGroup})
	d.onA.CreateDatabase(1)
	for _, name := range chainPods {
		d.a.CreateClaim(Claim{Name: name, Class: d.class, Block: true, Annotations: map[string]string{groupAnnotation: "chain"}})
		d.a.CreatePod(Pod{Name: name, Mounts: device(name)})
	}
	for _, name := range chainPods {
		d.a.AwaitPod(name)
	}
	d.orders = d.onA.StartLedger("orders", 2)
	d.chain = d.a.startChain(chainPods)
	for _, group := range []string{"shop", "chain"} {
		began := time.Now()
		d.a.AwaitGroup(group, "to be in sync with b", streaming)
		d.b.AwaitPoint(group, began)
	}
	d.b.AwaitGroup("shop", "to tell of its primary", func(s *v1alpha1.ConsistencyGroupStatus) error {
		r := s.Replication
		if s.Role != v1alpha1.RoleReplica || r == nil || r.Peer != "a" || r.State != v1alpha1.ReplicationSynced && r.State != v1alpha1.ReplicationStreaming || r.Lag == nil {
			return fmt.Errorf("its status is %+v", s)
		}
		return nil
	})
}

// chainPods are the pods and claims of the chain; even numbers go to the first.
var chainPods = [2]string{"even", "odd"}

// streaming says that a primary's records arrive.
func streaming(s *v1alpha1.ConsistencyGroupStatus) error {
	r := s.Replication
	if r == nil || r.State != v1alpha1.ReplicationSynced && r.State != v1alpha1.ReplicationStreaming {
		return fmt.Errorf("its replication is %+v", r)
	}
	return nil
}

// replicaIsCausal opens points of the chain at b while a writes it: each holds a
// prefix.
func (d *disaster) replicaIsCausal() {
	d.t.Helper()
	ids := [2]string{d.a.VolumeID(chainPods[0]), d.a.VolumeID(chainPods[1])}
	last := 0
	for range 4 {
		acked := d.chain.await(d.t, 20)
		d.b.AwaitPoint("chain", time.Now())
		view := d.b.openView(d.t, "chain", "latest")
		even, odd := view.number(d.t, ids[0]), view.number(d.t, ids[1])
		view.close(d.t)
		d.t.Logf("the replica's point holds %d and %d, %d were acknowledged before", even, odd, acked)
		d.prefix(even, odd)
		if now := max(even, odd); now < acked || now <= last {
			d.t.Errorf("the point holds the chain up to %d, want %d at least, and more than %d", now, acked, last)
		}
		last = max(even, odd)
	}
}

// prefix checks that two volumes hold a prefix of the chain.
func (d *disaster) prefix(even, odd int) {
	d.t.Helper()
	if even-odd != 1 && odd-even != 1 {
		d.t.Errorf("the volumes hold %d and %d: that is no prefix of the chain", even, odd)
	}
}

// lose takes the power of all of a's nodes away under load.
func (d *disaster) lose() {
	d.t.Helper()
	go func() { _, _ = d.onA.Pgbench(d.t.Context(), 2, loadTimeout) }() // ends with its node
	WaitFor(d.t, podTimeout, "transactions of pgbench", func(ctx context.Context) error {
		done, err := d.onA.Query(ctx, "SELECT count(*) FROM pgbench_history")
		if err == nil && done == "0" {
			err = errors.New("there is none")
		}
		return err
	})
	d.b.AwaitPoint("shop", time.Now())
	busy := time.Now()
	WaitFor(d.t, podTimeout, "a while of load", func(context.Context) error {
		if since := time.Since(busy); since < failoverLoad {
			return fmt.Errorf("it is %s", since)
		}
		return d.orders.Err()
	})
	kit := d.a.Kit(d.t)
	d.nodes = d.a.Nodes(d.t, 1)
	d.killed = time.Now()
	for _, node := range d.nodes {
		kit.StopNode(d.t, node)
	}
	d.orders.Stop()
}

// takeOver fails both groups over to b and checks what is there.
func (d *disaster) takeOver() *Postgres {
	d.t.Helper()
	d.t.Cleanup(d.releaseVolumes)
	d.tryFailover()
	shop := d.b.Recover("failover", "shop", "--at", "latest", "--yes")
	Report(d.t, Figure{Name: "site killed to the other one primary, with claims", Got: time.Since(d.killed).Seconds(), Unit: "s"})
	onB := d.b.RunPostgres(PostgresSpec{Name: "shop", DataClass: d.class, WALClass: d.class, ClaimAnnotations: inGroup})
	Report(d.t, Figure{Name: "RTO: site killed to PostgreSQL ready at the other one", Got: time.Since(d.killed).Seconds(), Unit: "s"})
	Report(d.t, Figure{Name: "RPO: from the point to the last order that the lost site acknowledged", Got: max(0, d.orders.LastAcked().Sub(shop.Time).Seconds()), Target: 5, Unit: "s"})
	found, err := d.orders.Check(d.t.Context(), onB, shop.Time)
	if err != nil {
		d.t.Fatal(err)
	}
	if found.Acked == 0 {
		d.t.Error("nothing was acknowledged before the point: nothing was tested")
	}
	d.t.Logf("failed over to %s: %d orders acknowledged before the point, all are there; %d there of %d ever acknowledged", shop.Time.UTC().Format(time.RFC3339Nano),
		found.Acked, found.Present, found.AckedAll)
	if err := harness.CheckPgbench(d.t.Context(), onB); err != nil {
		d.t.Error(err)
	}
	d.b.Recover("failover", "chain", "--yes")
	d.b.RunPod(Pod{Name: "reader", Mounts: []Mount{{Claim: chainPods[0], Path: "/dev/even", Block: true}, {Claim: chainPods[1], Path: "/dev/odd", Block: true}}})
	var even, odd int
	text := d.b.Sh("reader", "for d in even odd; do dd if=/dev/$d bs=512 count=1 iflag=direct 2>/dev/null | tr -d ' \\0'; echo; done")
	if _, err := fmt.Sscan(text, &even, &odd); err != nil {
		d.t.Fatalf("the devices hold %q: %v", text, err)
	}
	acked, _ := d.chain.state()
	d.t.Logf("the chain is there up to %d of %d acknowledged", max(even, odd), acked)
	d.prefix(even, odd)
	d.b.DeletePod("reader")
	return onB
}

// releaseVolumes has the PersistentVolumes go that failovers made at b, which are
// kept when their claims go: with what is on them where b is the primary, at whose
// site a volume is deleted.
func (d *disaster) releaseVolumes() {
	volumes := d.b.Client.CoreV1().PersistentVolumes()
	list, err := volumes.List(context.Background(), metav1.ListOptions{})
	if err != nil {
		d.t.Error(err)
		return
	}
	status, err := d.b.Admin(d.t).GetStatus(context.Background(), &adminv1.GetStatusRequest{})
	if err != nil {
		d.t.Error(err)
		return
	}
	isPrimary := map[string]bool{}
	for _, v := range status.GetVolumes() {
		isPrimary[v.GetId()] = v.GetRole() == adminv1.Role_ROLE_PRIMARY
	}
	for _, v := range list.Items {
		claim := v.Spec.ClaimRef
		if claim == nil || claim.Namespace != d.b.Namespace || v.Spec.CSI == nil {
			continue
		}
		if isPrimary[v.Spec.CSI.VolumeHandle] {
			_, err = volumes.Patch(context.Background(), v.Name, types.MergePatchType, []byte(`{"spec": {"persistentVolumeReclaimPolicy": "Delete"}}`), metav1.PatchOptions{})
		} else {
			err = volumes.Delete(context.Background(), v.Name, metav1.DeleteOptions{}) // it ends when the claim does
		}
		if err != nil {
			d.t.Error(err)
		}
	}
}

// removeReplicas removes the replicas that each site keeps of what was deleted at
// the other one, and with them their engines, which other tests would meet.
func (d *disaster) removeReplicas() {
	if d.a == nil {
		return
	}
	for _, c := range env.Clusters() {
		admin := c.Admin(d.t)
		err := Await(context.Background(), returnTimeout, "replicas of cluster "+c.Name+" to be orphaned, and removed", func(ctx context.Context) error {
			if _, err := c.Plugin(ctx, "orphans", "--remove", "--yes"); err != nil {
				return err
			}
			status, err := admin.GetStatus(ctx, &adminv1.GetStatusRequest{})
			if err != nil {
				return err
			}
			var left []error
			for _, v := range status.GetVolumes() {
				if strings.HasPrefix(v.GetGroup(), d.a.Namespace+"/") {
					left = append(left, fmt.Errorf("volume %s of group %s is there, %s", v.GetId(), v.GetGroup(), v.GetRole()))
				}
			}
			return errors.Join(left...)
		})
		if err != nil {
			d.t.Error(err)
		}
	}
}

// goOn has PostgreSQL at b take orders that a never sees before it is back.
func (d *disaster) goOn(onB *Postgres) *harness.Ledger {
	d.t.Helper()
	payments := onB.StartLedger("payments", 2)
	awaitOrders(d.t, payments, 50)
	return payments
}

// comeBack switches a's nodes on: it is stale, is refused, and becomes the replica
// when nothing has its devices any more.
func (d *disaster) comeBack() {
	d.t.Helper()
	kit := d.a.Kit(d.t)
	began := time.Now()
	for _, node := range d.nodes {
		kit.StartNode(d.t, node)
	}
	for _, group := range []string{"shop", "chain"} {
		d.awaitGroupNamed(d.a, group, "to be a replica", isReplica)
	}
	Report(d.t, Figure{Name: "first site on again to demoted", Got: time.Since(began).Seconds(), Unit: "s"})
	d.scale(d.a, 0)
	for _, name := range chainPods {
		d.a.ForgetPod(name)
	}
	for _, group := range []string{"shop", "chain"} {
		d.awaitGroupNamed(d.a, group, "to have all of b's", streaming)
	}
	d.a.AwaitPoint("shop", time.Now())
	Report(d.t, Figure{Name: "first site on again to in sync", Got: time.Since(began).Seconds(), Unit: "s"})
}

// awaitGroup is AwaitGroup of PostgreSQL's group at a site whose controller was
// off.
func (d *disaster) awaitGroup(at *Namespace, what string, ok func(*v1alpha1.ConsistencyGroupStatus) error) {
	d.t.Helper()
	d.awaitGroupNamed(at, "shop", what, ok)
}

func (d *disaster) awaitGroupNamed(at *Namespace, group, what string, ok func(*v1alpha1.ConsistencyGroupStatus) error) {
	d.t.Helper()
	WaitFor(d.t, returnTimeout, "group "+group+" of cluster "+at.Name+" "+what, func(ctx context.Context) error {
		g, err := at.Group(ctx, group)
		if err != nil {
			return err
		}
		return ok(&g.Status)
	})
}

// scale gives the StatefulSet of a site a size and waits until its pods are
// gone, if that is 0.
func (d *disaster) scale(at *Namespace, replicas int) {
	d.t.Helper()
	patch := fmt.Appendf(nil, `{"spec": {"replicas": %d}}`, replicas)
	if _, err := at.Client.AppsV1().StatefulSets(at.Namespace).Patch(d.t.Context(), "shop", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		d.t.Fatal(err)
	}
	if replicas == 0 {
		at.AwaitPodGone("shop-0")
	}
}

// failBack stops b in order, makes a primary again, and compares.
func (d *disaster) failBack(onB *Postgres, payments *harness.Ledger) {
	d.t.Helper()
	payments.Stop()
	if err := payments.Err(); err != nil {
		d.t.Error(err)
	}
	was := d.digest(onB)
	d.scale(d.b, 0)
	stopped := time.Now()
	d.a.AwaitPoint("shop", stopped)
	back := d.a.Recover("failover", "shop", "--yes")
	d.scale(d.a, 1)
	d.onA.Await()
	Report(d.t, Figure{Name: "failback: command to PostgreSQL ready at the first site", Got: time.Since(stopped).Seconds(), Unit: "s"})
	if now := d.digest(d.onA); now != was {
		d.t.Errorf("after the failback the tables are %s, and were %s at b", now, was)
	}
	if _, err := payments.Check(d.t.Context(), d.onA, back.Time); err != nil {
		d.t.Error(err)
	}
	if err := harness.CheckPgbench(d.t.Context(), d.onA); err != nil {
		d.t.Error(err)
	}
	d.b.AwaitGroup("shop", "to be a replica again", func(s *v1alpha1.ConsistencyGroupStatus) error {
		return errors.Join(isReplica(s), streaming(s))
	})
}

// takeTurns has each site outlive the other one in another way: a's controller is
// gone while its engines go on, then the sites do not see each other.
func (d *disaster) takeTurns(onB *Postgres) {
	d.t.Helper()
	d.outlive(d.a, d.b, d.onA, "half_dead", func() func() {
		d.controllers(0)
		return func() { d.controllers(1) }
	})
	d.scale(d.a, 0)
	d.awaitGroup(d.a, "to have all of b's", streaming)
	d.scale(d.b, 1)
	onB.Await()
	d.outlive(d.b, d.a, onB, "cut_off", func() func() {
		a, b := d.a.Kit(d.t), d.b.Kit(d.t)
		a.CutLink(d.t, b)
		return func() { a.MendLink(d.t, b) }
	})
}

// outlive severs a primary from its replica, which says so and is failed over to,
// while the primary goes on. When that learns of it, it gives up and takes no write
// more.
func (d *disaster) outlive(primary, replica *Namespace, p *Postgres, how string, sever func() (restore func())) {
	d.t.Helper()
	stale := p.StartLedger(how, 2)
	awaitOrders(d.t, stale, 20)
	restore := sever()
	severed := time.Now()
	replica.AwaitGroup("shop", "to miss its primary", func(s *v1alpha1.ConsistencyGroupStatus) error {
		r := s.Replication
		if r == nil || r.State != v1alpha1.ReplicationDisconnected || r.Since == nil || r.Since.After(time.Now()) || !strings.Contains(r.Message, "last heard of") {
			return fmt.Errorf("its replication is %+v", r)
		}
		return nil
	})
	Report(d.t, Figure{Name: "primary " + how + " to its replica saying so", Got: time.Since(severed).Seconds(), Target: 15, Unit: "s"})
	out, err := replica.Plugin(d.t.Context(), "--namespace", replica.Namespace, "group", "describe", "shop")
	if err != nil || !strings.Contains(out, "has not been heard of since") {
		d.t.Errorf("the plugin says of a replica without its primary (%v)\n%s", err, out)
	}
	replica.Recover("failover", "shop", "--yes")
	awaitOrders(d.t, stale, 20) // it cannot know
	restore()
	mended := time.Now()
	d.awaitGroup(primary, "to be a replica", isReplica)
	Report(d.t, Figure{Name: "primary " + how + " back to demoted", Got: time.Since(mended).Seconds(), Unit: "s"})
	ctx, cancel := context.WithTimeout(d.t.Context(), 10*time.Second)
	defer cancel()
	// An order that was acknowledged before has come when another answer has gone the same
	// way. The database may have ended by now, which is an answer as well.
	_, _ = primary.Exec(ctx, primary.Namespace, p.Pod, "true")
	acked := stale.Acked()
	if out, err := primary.Exec(ctx, primary.Namespace, p.Pod, "sh", "-c", "echo x > /pgdata/refused && sync /pgdata/refused"); err == nil {
		d.t.Errorf("a stale primary took a write: %s", out)
	} else {
		d.t.Logf("a write at the stale primary: %v", err)
	}
	if now := stale.Acked(); now != acked {
		d.t.Errorf("a stale primary acknowledged %d orders after it was demoted", now-acked)
	}
	stale.Stop()
}

// controllers gives a's controller a number of pods, which are there, or gone, on
// return. The test's end undoes it.
func (d *disaster) controllers(n int) {
	d.t.Helper()
	sets := d.a.Client.AppsV1().StatefulSets(SystemNamespace)
	set := func(ctx context.Context, n int) error {
		_, err := sets.Patch(ctx, release+"-controller", types.MergePatchType, fmt.Appendf(nil, `{"spec": {"replicas": %d}}`, n), metav1.PatchOptions{})
		return err
	}
	d.t.Cleanup(func() {
		if err := set(context.Background(), 1); err != nil {
			d.t.Errorf("start the controller that the test had stopped: %v", err)
		}
	})
	if err := set(d.t.Context(), n); err != nil {
		d.t.Fatal(err)
	}
	WaitFor(d.t, podTimeout, fmt.Sprintf("%d controllers of a", n), func(ctx context.Context) error {
		got, err := sets.Get(ctx, release+"-controller", metav1.GetOptions{})
		if err == nil && (int(got.Status.Replicas) != n || int(got.Status.ReadyReplicas) != n) {
			err = fmt.Errorf("there are %d, of them ready %d", got.Status.Replicas, got.Status.ReadyReplicas)
		}
		return err
	})
}

// tryFailover shows what a failover would do, which changes nothing.
func (d *disaster) tryFailover() {
	d.t.Helper()
	planned := d.b.Recover("failover", "shop", "--dry-run")
	if len(planned.Entered) > 0 || planned.Checkpoint == 0 {
		d.t.Errorf("the plan of a failover is %+v", planned)
	}
	list, err := d.b.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("recoveries")).Namespace(d.b.Namespace).List(d.t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 0 {
		d.t.Errorf("a plan has made %d recoveries (%v)", len(list.Items), err)
	}
	d.b.AwaitGroup("shop", "to be a replica still", isReplica)
}

// isReplica says that a group has another primary.
func isReplica(s *v1alpha1.ConsistencyGroupStatus) error {
	if s.Role != v1alpha1.RoleReplica {
		return fmt.Errorf("its role is %s, term %d", s.Role, s.Term)
	}
	return nil
}

// digest is a checksum of every table.
func (d *disaster) digest(p *Postgres) string {
	d.t.Helper()
	var parts []string
	for _, table := range []string{"orders", "payments", "pgbench_accounts", "pgbench_tellers", "pgbench_branches", "pgbench_history"} {
		got, err := p.Query(d.t.Context(), "SELECT coalesce(md5(string_agg(md5(t::text), '' ORDER BY t::text)), 'empty') FROM "+table+" t")
		if err != nil || got == "" {
			d.t.Fatalf("digest of %s: %q, %v", table, got, err)
		}
		parts = append(parts, table+" "+got)
	}
	return strings.Join(parts, ", ")
}
