package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// PostgresUser is the number of the user postgres in the tools image.
const PostgresUser = 999

// PostgresSpec says what is particular about a PostgreSQL of a test: a
// StatefulSet of one pod with its data on one claim and its WAL on another.
type PostgresSpec struct {
	Name               string
	DataClass          string
	WALClass           string
	DataSize, WALSize  string            // 1Gi when empty
	ClaimAnnotations   map[string]string // of both claims, the consistency group for example
	Node               string            // empty: any
	TolerationsSeconds int64             // how long the pod stays on a node that is gone; 0: 2 s
}

// Postgres is a PostgreSQL server in a namespace. It is a harness.Server.
type Postgres struct {
	Pod       string
	DataClaim string
	WALClaim  string

	ns *Namespace
}

var _ harness.Server = (*Postgres)(nil)

// postgresScript makes the database cluster on volumes that hold none, and
// runs the server in the shell's place. An initdb that was killed halfway is
// done again: only a finished one has the name that is looked for. fsync and
// full_page_writes are on, as they are by default.
const postgresScript = `
if [ ! -d /pgdata/data ]; then
  rm -rf /pgdata/data.new /pgwal/wal
  initdb --pgdata /pgdata/data.new --waldir /pgwal/wal --auth trust --username postgres --encoding UTF8 --locale C
  mv /pgdata/data.new /pgdata/data
fi
exec postgres -D /pgdata/data -k /tmp -c listen_addresses=127.0.0.1 -c shared_buffers=64MB -c max_connections=40 -c logging_collector=off
`

// CreatePostgres makes the StatefulSet and does not wait for it. Claims with
// the names of the set's, restored ones for example, may exist already.
func (n *Namespace) CreatePostgres(spec PostgresSpec) *Postgres {
	n.t.Helper()
	data := Claim{Name: "pgdata", Class: spec.DataClass, Size: spec.DataSize, Annotations: spec.ClaimAnnotations}.object()
	wal := Claim{Name: "pgwal", Class: spec.WALClass, Size: spec.WALSize, Annotations: spec.ClaimAnnotations}.object()
	labels := map[string]string{"app": spec.Name}
	pod := Pod{Script: "set -e" + postgresScript, User: PostgresUser, Node: spec.Node}.spec(n.Images.Tools)
	pod.RestartPolicy = corev1.RestartPolicyAlways
	grace := int64(30) // for PostgreSQL's own checkpoint
	pod.TerminationGracePeriodSeconds = &grace
	group := int64(PostgresUser)
	pod.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	share := true // the server is not process 1, which nobody in the pod could kill
	pod.ShareProcessNamespace = &share
	pod.Tolerations = leaveAfter(max(spec.TolerationsSeconds, 2))
	main := &pod.Containers[0]
	main.VolumeMounts = []corev1.VolumeMount{{Name: "pgdata", MountPath: "/pgdata"}, {Name: "pgwal", MountPath: "/pgwal"}}
	main.ReadinessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"psql", "-h", "/tmp", "-U", "postgres", "-d", "postgres", "-Xqc", "SELECT 1"}}},
		PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 5,
	}
	replicas := int32(1)
	_, err := n.Client.AppsV1().StatefulSets(n.Namespace).Create(n.t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: spec.Name, Labels: labels},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, ServiceName: spec.Name, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template:             corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{*data, *wal},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		n.t.Fatalf("make PostgreSQL %s: %v", spec.Name, err)
	}
	name := spec.Name + "-0"
	return &Postgres{Pod: name, DataClaim: "pgdata-" + name, WALClaim: "pgwal-" + name, ns: n}
}

// leaveAfter has a pod leave a node that is gone after seconds instead of
// Kubernetes' 300.
func leaveAfter(seconds int64) []corev1.Toleration {
	var all []corev1.Toleration
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		all = append(all, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds})
	}
	return all
}

// RunPostgres is CreatePostgres, and waits until the server answers.
func (n *Namespace) RunPostgres(spec PostgresSpec) *Postgres {
	n.t.Helper()
	p := n.CreatePostgres(spec)
	p.Await()
	return p
}

// Await waits until the server answers; crash recovery is part of that.
func (p *Postgres) Await() {
	p.ns.t.Helper()
	p.ns.AwaitPod(p.Pod)
}

// Kill ends every process of the server at once. The kubelet starts it again.
func (p *Postgres) Kill() {
	p.ns.t.Helper()
	ctx, cancel := context.WithTimeout(p.ns.t.Context(), execTimeout)
	defer cancel()
	_, err := p.ns.Exec(ctx, p.ns.Namespace, p.Pod, "sh", "-c", "kill -9 -1") // all but this shell and process 1
	var exit ExitError
	if errors.As(err, &exit) && exit.Status == killedStatus {
		return // the runtime ended the rest of the container before the shell had ended by itself
	}
	if err != nil {
		p.ns.t.Fatal(err)
	}
}

// killedStatus is the exit status of a command that SIGKILL has ended.
const killedStatus = 128 + 9

// CreateDatabase makes harness.Database and fills it for pgbench; 100,000
// accounts for each unit of scale.
func (p *Postgres) CreateDatabase(scale int) {
	p.ns.t.Helper()
	p.ns.Sh(p.Pod, fmt.Sprintf("psql -h /tmp -U postgres -d postgres -Xqc 'CREATE DATABASE %s'; pgbench -h /tmp -U postgres --initialize --quiet --scale %d %[1]s 2>&1; psql -h /tmp -U postgres -d %[1]s -Xqc CHECKPOINT",
		harness.Database, scale))
}

// Query is harness.Server's.
func (p *Postgres) Query(ctx context.Context, sql string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	out, err := p.ns.Exec(ctx, p.ns.Namespace, p.Pod, append(p.psql(), "-c", sql)...)
	return strings.TrimSpace(out), err
}

// Session is harness.Server's.
func (p *Postgres) Session(ctx context.Context, in io.Reader, out io.Writer) error {
	var complaints bytes.Buffer
	if err := p.ns.Stream(ctx, p.ns.Namespace, p.Pod, Streams{In: in, Out: out, Err: &complaints}, p.psql()...); err != nil {
		return fmt.Errorf("psql: %w: %s", err, complaints.String())
	}
	return nil
}

func (p *Postgres) psql() []string {
	return append([]string{"psql", "-h", "/tmp", "-U", "postgres"}, harness.SessionOptions...)
}

// StartLedger makes a ledger on the server and starts sessions clients that
// write it until the test stops them or ends.
func (p *Postgres) StartLedger(table string, sessions int) *harness.Ledger {
	t := p.ns.t
	t.Helper()
	if err := harness.CreateLedger(t.Context(), p, table); err != nil {
		t.Fatalf("make ledger: %v", err)
	}
	ledger := harness.StartLedger(p, table, sessions)
	t.Cleanup(ledger.Stop)
	return ledger
}

// Pgbench runs pgbench's TPC-B-like transactions for a time. It returns an
// error if one failed.
func (p *Postgres) Pgbench(ctx context.Context, clients int, during time.Duration) (harness.PgbenchResult, error) {
	ctx, cancel := context.WithTimeout(ctx, during+execTimeout)
	defer cancel()
	out, err := p.ns.Exec(ctx, p.ns.Namespace, p.Pod, "pgbench", "-h", "/tmp", "-U", "postgres", "--no-vacuum", "--client", strconv.Itoa(clients),
		"--jobs", "1", "--time", strconv.Itoa(int(during.Round(time.Second)/time.Second)), harness.Database)
	if err != nil {
		return harness.PgbenchResult{}, err
	}
	return harness.ParsePgbench(out)
}
