package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
	"github.com/lockstep-csi/lockstep/internal/apitest"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

const ourDefinitions = "../../deploy/charts/lockstep/files/crds/*.yaml"

// plugin runs command lines of the kubectl plugin against a real API server.
// There is no kubelet: what forwards ports to pods is socketPorts.
type plugin struct {
	*shell
	site   *fakeSite
	api    *apitest.Server
	admin  *cluster.Cluster // an administrator's, for what the test does itself
	user   string           // whom commands run as; empty: an administrator
	users  string           // namespace of group and claims
	driver string           // namespace of Lockstep
}

// socketPorts is a cluster.Forwarder: the controller's port is a Unix socket,
// and every engine's an address.
type socketPorts struct {
	socket string
	engine string
}

func (p socketPorts) DialPod(ctx context.Context, _, pod string, _ int) (net.Conn, error) {
	var dialer net.Dialer
	if strings.HasPrefix(pod, "engine-") {
		return dialer.DialContext(ctx, "tcp", p.engine)
	}
	return dialer.DialContext(ctx, "unix", p.socket)
}

// newPlugin has namespaces of its own, with a controller that runs and answers
// as the fake site.
func newPlugin(t *testing.T) *plugin {
	t.Helper()
	api := apitest.Start(t)
	api.Install(t, ourDefinitions)
	p := &plugin{shell: newShell(""), site: newFakeSite(), api: api, users: api.Namespace(t), driver: api.Namespace(t)}
	p.name = pluginName
	p.site.group.Name = p.users + "/shop"
	socket := p.site.serve(t)
	p.openCluster = func(o cluster.Options) (*cluster.Cluster, error) {
		config := api.Config()
		config.Impersonate.UserName = p.user
		c, err := open(config, o, p)
		if err == nil {
			c.Ports = socketPorts{socket: socket}
		}
		return c, err
	}
	var err error
	if p.admin, err = open(api.Config(), cluster.Options{}, p); err != nil {
		t.Fatal(err)
	}
	p.startController(t)
	return p
}

func open(config *rest.Config, o cluster.Options, p *plugin) (*cluster.Cluster, error) {
	namespace := o.Overrides.Context.Namespace
	if namespace == "" {
		namespace = p.users
	}
	return cluster.New(config, namespace, p.driver)
}

const controllerName = "lockstep-controller-0"

func (p *plugin) startController(t *testing.T) {
	t.Helper()
	pods := p.admin.Kube.CoreV1().Pods(p.driver)
	pod, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: controllerName, Labels: map[string]string{
			"app.kubernetes.io/part-of": "lockstep", kubenames.LabelComponent: "controller"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "controller", Image: "x"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Status.Phase = corev1.PodRunning
	if _, err := pods.UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// stopController leaves nobody to be asked.
func (p *plugin) stopController(t *testing.T) {
	t.Helper()
	if err := p.admin.Kube.CoreV1().Pods(p.driver).Delete(t.Context(), controllerName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// recoveries are those of the users' namespace.
func (p *plugin) recoveries(t *testing.T) []v1alpha1.Recovery {
	t.Helper()
	list, err := p.admin.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("recoveries")).Namespace(p.users).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var all []v1alpha1.Recovery
	for _, o := range list.Items {
		var r v1alpha1.Recovery
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// onlyRecovery demands that there is one.
func (p *plugin) onlyRecovery(t *testing.T) *v1alpha1.Recovery {
	t.Helper()
	all := p.recoveries(t)
	if len(all) != 1 {
		t.Fatalf("%d recoveries, want one", len(all))
	}
	return &all[0]
}

// setStatus writes a recovery's status as the controller does.
func (p *plugin) setStatus(t *testing.T, r *v1alpha1.Recovery, status v1alpha1.RecoveryStatus) {
	t.Helper()
	r.APIVersion, r.Kind, r.Status = v1alpha1.GroupVersion.String(), "Recovery", status
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(r)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.admin.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("recoveries")).Namespace(p.users).
		UpdateStatus(t.Context(), unstructuredOf(content), metav1.UpdateOptions{FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		t.Fatal(err)
	}
}

// play is the controller: it writes the first state when the command has made
// a recovery, and each further one when the command has told of the one before.
func (p *plugin) play(t *testing.T, states ...v1alpha1.RecoveryStatus) {
	p.watch = func(text string) {
		isNext := strings.HasPrefix(text, "recovery ") || strings.HasPrefix(text, "  ")
		if !isNext || len(states) == 0 {
			return
		}
		p.setStatus(t, p.onlyRecovery(t), states[0])
		states = states[1:]
	}
	t.Cleanup(func() {
		if len(states) > 0 {
			t.Errorf("%d states were not told of, the next is %s", len(states), states[0].Phase)
		}
	})
}

// named replaces what each run names anew.
func (p *plugin) named(t *testing.T, text string) string {
	for _, r := range p.recoveries(t) {
		text = strings.ReplaceAll(text, r.Name, r.GenerateName+"x7x7x")
	}
	return strings.NewReplacer(p.users, "USERS", p.driver, "DRIVER").Replace(text)
}

// TestPluginReads shows that what a site is asked reaches it through the
// cluster, whatever way the group is named.
func TestPluginReads(t *testing.T) {
	p := newPlugin(t)
	for _, name := range []string{"shop", p.users + "/shop"} {
		if got := p.must(t, "group", "describe", name); !strings.Contains(got, p.users+"/shop") {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := p.must(t, "status"); !strings.Contains(got, "namespace "+p.driver) {
		t.Errorf("status does not say where it was asked:\n%s", got)
	}
	if got := p.must(t, "point", "take", "shop", "--pin", "mark", "-o", "name"); got != "1241\n" {
		t.Errorf("took %q", got)
	}
	if got := p.must(t, "point", "list", "shop", "--limit", "1", "-o", "name"); got != "1241\n" {
		t.Errorf("listed %q", got)
	}
	p.must(t, "point", "drop", "shop", "mark")
	other := p.run(t, "group", "describe", "shop", "-n", "other")
	if other.exit != exitFailed || !strings.Contains(other.stderr, `no group "other/shop"`) {
		t.Errorf("-n: exit %d: %s", other.exit, other.stderr)
	}
	bad := p.run(t, "group", "describe", "a/b/c")
	if bad.exit != exitUsage || !strings.Contains(bad.stderr, "NAMESPACE/GROUP") {
		t.Errorf("a/b/c: exit %d: %s", bad.exit, bad.stderr)
	}
}

// TestPluginNamesClaims: in a cluster people know volumes by their claims, and
// pods and logs by the volumes' ids; a provisioner's pvc-… is neither.
func TestPluginNamesClaims(t *testing.T) {
	p := newPlugin(t)
	p.site.claims = p.users
	for _, step := range []struct{ name, args string }{
		{"group_describe", "group describe shop"},
		{"group_describe_json", "group describe shop -o json"},
		{"view_open", "view open shop"},
		{"view_list", "view list"},
		{"failover_dry_run", "failover shop --dry-run"},
		{"failover_dry_run_json", "failover shop --dry-run -o json"},
	} {
		t.Run(step.name, func(t *testing.T) {
			got := p.must(t, strings.Fields(step.args)...)
			if isTable := !strings.HasSuffix(step.args, "json"); isTable && strings.Contains(got, "pvc-") {
				t.Errorf("it names volumes as a provisioner does:\n%s", got)
			}
			golden(t, "plugin_claims_"+step.name, p.named(t, got))
		})
	}
	status := p.run(t, "view", "open", "shop")
	if want := "to reach " + p.users + "/pgdata: "; !strings.Contains(status.stderr, want) {
		t.Errorf("no %q in: %s", want, status.stderr)
	}
}

func TestPluginWithoutController(t *testing.T) {
	p := newPlugin(t)
	p.stopController(t)
	got := p.run(t, "group", "list")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "namespace "+p.driver+" has no controller of Lockstep: pass --lockstep-namespace") {
		t.Errorf("exit %d: %s", got.exit, got.stderr)
	}
	p.user = "nobody"
	got = p.run(t, "group", "list")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "pods/portforward in namespace "+p.driver) {
		t.Errorf("nobody: exit %d: %s", got.exit, got.stderr)
	}
}

// TestPluginSuggests copies the cluster's flags into what it suggests.
func TestPluginSuggests(t *testing.T) {
	p := newPlugin(t)
	p.must(t, "--context", "", "version")
	got := p.run(t, "view", "open", "shop", "--context=east", "--lockstep-namespace=storage")
	if got.exit != exitOK || !strings.Contains(got.stderr, "when done: kubectl lockstep view close view-1 --context=east --lockstep-namespace=storage\n") {
		t.Errorf("exit %d: %s", got.exit, got.stderr)
	}
	if !strings.Contains(got.stderr, "`kubectl -n storage --context=east port-forward pod/engine-v-0a1b 10809`, then nbd://127.0.0.1:10809/v-0a1b\n") {
		t.Errorf("it does not say how to reach the images: %s", got.stderr)
	}
}

// awaitRight returns when the API server lets the user make recoveries: it
// takes a moment to see a binding.
func (p *plugin) awaitRight(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		review, err := p.admin.Kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: p.user, ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: p.users, Verb: "create", Group: v1alpha1.GroupName, Resource: "recoveries"}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if review.Status.Allowed {
			return
		}
	}
}

// TestPluginClaims finds groups by their claims.
func TestPluginClaims(t *testing.T) {
	p := newPlugin(t)
	groups := p.admin.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("consistencygroups")).Namespace(p.users)
	group := unstructuredOf(map[string]any{"apiVersion": v1alpha1.GroupVersion.String(), "kind": "ConsistencyGroup", "metadata": map[string]any{"name": "shop"}})
	made, err := groups.Create(t.Context(), group, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	status, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&v1alpha1.ConsistencyGroupStatus{
		Members: []v1alpha1.GroupMember{{Volume: strings.Repeat("0a", 16), Claim: "pgdata"}}})
	if err != nil {
		t.Fatal(err)
	}
	made.Object["status"] = status
	if _, err := groups.UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pvc:pgdata", "pvc:" + p.users + "/pgdata"} {
		if got := p.must(t, "group", "describe", name, "-o", "name"); got != p.users+"/shop\n" {
			t.Errorf("%s: %q", name, got)
		}
	}
	got := p.run(t, "group", "describe", "pvc:other")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "namespace "+p.users+" has no claim other") {
		t.Errorf("exit %d: %s", got.exit, got.stderr)
	}
}

// TestPluginForwards shows the images on local ports while it runs.
func TestPluginForwards(t *testing.T) {
	p := newPlugin(t)
	engine, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	go func() {
		for {
			conn, err := engine.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "NBDMAGIC")
			conn.Close()
		}
	}()
	inner := p.openCluster
	p.openCluster = func(o cluster.Options) (*cluster.Cluster, error) {
		c, err := inner(o)
		if err == nil {
			c.Ports = socketPorts{socket: c.Ports.(socketPorts).socket, engine: engine.Addr().String()}
		}
		return c, err
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var greeting []byte
	p.watch = func(text string) {
		if !strings.HasPrefix(text, "forwarding until") {
			return
		}
		defer cancel()
		uri, err := url.Parse(firstURI(p.stdout.String()))
		if err != nil {
			t.Error(err)
			return
		}
		conn, err := net.Dial("tcp", uri.Host)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		greeting, err = io.ReadAll(conn)
		if err != nil {
			t.Error(err)
		}
	}
	got := p.runContext(t, ctx, "view", "open", "shop", "--forward")
	if got.exit != exitOK || string(greeting) != "NBDMAGIC" {
		t.Errorf("exit %d, %q came through: %s", got.exit, greeting, got.stderr)
	}
	if _, err := net.Dial("tcp", strings.TrimPrefix(strings.TrimSuffix(firstURI(got.stdout), "/v-0a1b"), "nbd://")); err == nil {
		t.Error("the port is still open")
	}
	if len(p.site.views) != 1 {
		t.Errorf("%d views are open, want it left open", len(p.site.views))
	}
}

func firstURI(text string) string {
	for _, word := range strings.Fields(text) {
		if strings.HasPrefix(word, "nbd://127.0.0.1:") {
			return word
		}
	}
	return ""
}

// TestPluginKubeconfig goes the way of kubectl: by a file, a context, and -n.
func TestPluginKubeconfig(t *testing.T) {
	p := newPlugin(t)
	config := p.api.Config()
	file := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"wrong",
"clusters":[{"name":"c","cluster":{"server":%q,"certificate-authority":%q}}],"users":[{"name":"u","user":{"token":%q}}],
"contexts":[{"name":"right","context":{"cluster":"c","user":"u","namespace":%q}},{"name":"wrong","context":{"cluster":"none","user":"u"}}]}`,
		config.Host, config.CAFile, config.BearerToken, p.users)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.openCluster = cluster.Open
	args := []string{"failover", "shop", "--yes", "--wait=false", "-o", "name", "--kubeconfig", file, "--context", "right"}
	if got := p.must(t, args...); got != "recoveries.lockstep.dev/"+p.onlyRecovery(t).Name+"\n" {
		t.Errorf("got %q", got)
	}
	if got := p.run(t, "group", "list", "--kubeconfig", file); got.exit != exitFailed || !strings.Contains(got.stderr, "no cluster is configured for this context") {
		t.Errorf("wrong context: exit %d: %s", got.exit, got.stderr)
	}
	if got := p.run(t, "group", "list", "--kubeconfig", file+".missing"); got.exit != exitFailed || !strings.Contains(got.stderr, "kubeconfig") {
		t.Errorf("no file: exit %d: %s", got.exit, got.stderr)
	}
}
