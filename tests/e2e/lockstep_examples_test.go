//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// exampleMoment is the moment that the examples name.
const exampleMoment = "2026-11-22T10:41:07Z"

// entrypoint does what the image of the example does, in the tools image, which
// has no program of its own.
const entrypoint = `set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  printf %s "$POSTGRES_PASSWORD" > /tmp/password
  initdb --pgdata "$PGDATA" --waldir "$POSTGRES_INITDB_WALDIR" --username postgres --pwfile /tmp/password --auth-local trust --auth-host scram-sha-256
  rm /tmp/password
fi
exec postgres -D "$PGDATA"`

// TestLockstepExamples does with the files in examples what their comments tell
// a user to do, in one go. Only what has to be is put in place of what they
// name: the backing class, PostgreSQL's image, and the moment.
func TestLockstepExamples(t *testing.T) {
	t.Parallel()
	lockstepOn(t, env.A)
	if _, err := env.A.Client.StorageV1().StorageClasses().Get(t.Context(), "lockstep", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Skipf("not tested: cluster %s has a storage class lockstep, which the examples would change (%v)", env.A.Name, err)
	}
	ns := env.A.NewNamespace(t)
	ns.applyExample("storageclass.yaml", "backingStorageClass: standard", "backingStorageClass: "+env.BackingClasses[0])
	command, err := json.Marshal([]string{"sh", "-c", entrypoint})
	if err != nil {
		t.Fatal(err)
	}
	ns.applyExample("postgres.yaml", "image: postgres:17", fmt.Sprintf("image: %s\n          imagePullPolicy: IfNotPresent\n          command: %s", ns.Images.Tools, command))
	ns.AwaitPodWithin("shop-0", installTimeout)
	ns.sql("shop-0", "CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1)")

	ns.applyExample("snapshot.yaml")
	ns.Kubectl("", "wait", "--for=jsonpath={.status.readyToUse}=true", "--timeout="+volumeTimeout.String(), "volumesnapshot/shop-marker", "volumegroupsnapshot/shop-all")
	ns.sql("shop-0", "INSERT INTO orders VALUES (2)")
	ns.AwaitPoint("shop", time.Now())
	moment := time.Now().Truncate(time.Second).Add(time.Second)
	ns.AwaitPoint("shop", moment)
	ns.sql("shop-0", "INSERT INTO orders VALUES (3)")
	ns.describeExample()

	ns.applyExample("restore.yaml", exampleMoment, moment.UTC().Format(time.RFC3339))
	for claims, want := range map[string]string{"from-marker": "1", "as-of": "1 2"} {
		mounts := []Mount{{Claim: "data-" + claims, Path: "/data"}, {Claim: "wal-" + claims, Path: "/wal"}}
		ns.CreatePod(Pod{Name: claims, User: PostgresUser, Script: "exec postgres -D /data/pgdata", Mounts: mounts})
		ns.AwaitPodWithin(claims, installTimeout)
		ns.awaitOrders(claims, want)
	}
	ns.awaitOrders("shop-0", "1 2 3")

	ns.Kubectl("", "lockstep", "rewind", "start", "shop", "--at", moment.UTC().Format(time.RFC3339))
	ns.AwaitPod("shop-0")
	ns.awaitOrders("shop-0", "1 2")
	ns.sql("shop-0", "INSERT INTO orders VALUES (4)")
	ns.awaitOrders("shop-0", "1 2 4")
}

// applyExample applies a file of examples with some of its text replaced by
// other text. What it makes outside of the namespace goes at the test's end, and
// so do snapshots, which keep volumes.
func (n *Namespace) applyExample(file string, oldnew ...string) {
	n.t.Helper()
	content, err := os.ReadFile(filepath.Join("../../examples", file))
	if err != nil {
		n.t.Fatal(err)
	}
	text := string(content)
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(text, oldnew[i]) {
			n.t.Fatalf("example %s has no %q", file, oldnew[i])
		}
		text = strings.ReplaceAll(text, oldnew[i], oldnew[i+1])
	}
	objects, err := ParseManifests([]byte(text))
	if err != nil {
		n.t.Fatalf("example %s: %v", file, err)
	}
	n.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*cleanTimeout)
		defer cancel()
		for i := len(objects) - 1; i >= 0; i-- {
			if n.owns(objects[i]) && !strings.HasSuffix(objects[i].GetKind(), "Snapshot") {
				continue
			}
			if err := n.Cluster.Delete(ctx, n.Namespace, objects[i:i+1]); err != nil {
				n.t.Errorf("clean up example %s: %v", file, err)
			}
		}
	})
	n.Kubectl(text, "apply", "-f", "-")
}

// describeExample checks what `kubectl lockstep group describe` tells about the
// group of the examples.
func (n *Namespace) describeExample() {
	n.t.Helper()
	out := n.Kubectl("", "lockstep", "group", "describe", "shop")
	wanted := []string{n.Namespace + "/shop", "Newest", "Window"}
	for _, claim := range []string{"data-shop-0", "wal-shop-0"} {
		wanted = append(wanted, n.Namespace+"/"+claim, n.Volume(claim).Spec.CSI.VolumeHandle)
	}
	for _, want := range wanted {
		if !strings.Contains(out, want) {
			n.t.Errorf("the description of the group lacks %q:\n%s", want, out)
		}
	}
	n.t.Logf("kubectl lockstep group describe shop:\n%s", out)
}

// sql has a server of the examples' layout do something.
func (n *Namespace) sql(pod, statements string) {
	n.t.Helper()
	n.Sh(pod, fmt.Sprintf("psql --username=postgres -Xq -v ON_ERROR_STOP=1 -c '%s'", statements))
}

// awaitOrders waits until a server answers, and checks what its table holds.
func (n *Namespace) awaitOrders(pod, want string) {
	n.t.Helper()
	var got string
	WaitFor(n.t, podTimeout, "PostgreSQL in pod "+pod+" to answer", func(ctx context.Context) (err error) {
		got, err = n.Exec(ctx, n.Namespace, pod, "psql", "--username=postgres", "-XqAtc", "SELECT string_agg(id::text, ' ' ORDER BY id) FROM orders")
		return err
	})
	if got = strings.TrimSpace(got); got != want {
		n.t.Errorf("PostgreSQL in pod %s has the orders %q, want %q", pod, got, want)
	}
}
