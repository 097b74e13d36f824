package preflight_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
	"github.com/lockstep-csi/lockstep/cmd/lockstep/preflight"
	"github.com/lockstep-csi/lockstep/internal/apitest"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

var now = time.Date(2026, 11, 22, 10, 42, 0, 0, time.UTC)

// rig is a cluster that one test changes and looks at. What is not in a
// namespace is deleted when the test ends.
type rig struct {
	*cluster.Cluster
	t      *testing.T
	api    *apitest.Server
	driver string
}

func newRig(t *testing.T) *rig {
	api := apitest.Start(t)
	api.Install(t, "../../../deploy/charts/lockstep/files/crds/*.yaml")
	api.Install(t, apitest.KitPath("crds", "*.yaml"))
	c, err := cluster.New(api.Config(), "default", api.Namespace(t))
	if err != nil {
		t.Fatal(err)
	}
	return &rig{Cluster: c, t: t, api: api, driver: preflight.DefaultDriverName}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// later deletes something that is not in a namespace.
func (r *rig) later(remove func(context.Context, string, metav1.DeleteOptions) error, name string) {
	r.t.Cleanup(func() { check(r.t, remove(context.Background(), name, metav1.DeleteOptions{})) })
}

// pod makes one of a role, with containers that are all ready but broken ones.
func (r *rig) pod(component, node string, args []string, broken map[string]corev1.ContainerState, containers ...string) {
	r.t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: component + "-" + node + "-0", Labels: map[string]string{
		"app.kubernetes.io/part-of": "lockstep", kubenames.LabelComponent: component}}, Spec: corev1.PodSpec{NodeName: node}}
	for _, name := range containers {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: name, Image: "x", Args: args})
	}
	pods := r.Kube.CoreV1().Pods(r.DriverNamespace)
	made, err := pods.Create(r.t.Context(), pod, metav1.CreateOptions{})
	check(r.t, err)
	made.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	for _, name := range containers {
		state, isBroken := broken[name]
		if !isBroken {
			state.Running = &corev1.ContainerStateRunning{}
		}
		made.Status.ContainerStatuses = append(made.Status.ContainerStatuses, corev1.ContainerStatus{Name: name, Ready: !isBroken, State: state})
	}
	_, err = pods.UpdateStatus(r.t.Context(), made, metav1.UpdateOptions{})
	check(r.t, err)
}

func (r *rig) node(name, kernel string, registered bool, taints ...corev1.Taint) {
	r.t.Helper()
	nodes := r.Kube.CoreV1().Nodes()
	made, err := nodes.Create(r.t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: taints}}, metav1.CreateOptions{})
	check(r.t, err)
	r.later(nodes.Delete, name)
	made.Status.NodeInfo = corev1.NodeSystemInfo{KernelVersion: kernel, OperatingSystem: "linux"}
	_, err = nodes.UpdateStatus(r.t.Context(), made, metav1.UpdateOptions{})
	check(r.t, err)
	info := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if registered {
		info.Spec.Drivers = []storagev1.CSINodeDriver{{Name: r.driver, NodeID: name}}
	}
	_, err = r.Kube.StorageV1().CSINodes().Create(r.t.Context(), info, metav1.CreateOptions{})
	check(r.t, err)
	r.later(r.Kube.StorageV1().CSINodes().Delete, name)
}

func (r *rig) csiDriver(attach bool) {
	r.t.Helper()
	_, err := r.Kube.StorageV1().CSIDrivers().Create(r.t.Context(), &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: r.driver},
		Spec: storagev1.CSIDriverSpec{AttachRequired: &attach}}, metav1.CreateOptions{})
	check(r.t, err)
	r.later(r.Kube.StorageV1().CSIDrivers().Delete, r.driver)
}

// class makes one; parameters are pairs.
func (r *rig) class(name, provisioner string, late, expands bool, parameters ...string) {
	r.t.Helper()
	mode := storagev1.VolumeBindingImmediate
	if late {
		mode = storagev1.VolumeBindingWaitForFirstConsumer
	}
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode,
		AllowVolumeExpansion: &expands, Parameters: map[string]string{}}
	for n := 0; n < len(parameters); n += 2 {
		class.Parameters[parameters[n]] = parameters[n+1]
	}
	_, err := r.Kube.StorageV1().StorageClasses().Create(r.t.Context(), class, metav1.CreateOptions{})
	check(r.t, err)
	r.later(r.Kube.StorageV1().StorageClasses().Delete, name)
}

func (r *rig) object(apiVersion, kind, plural, name string, fields map[string]any) {
	r.t.Helper()
	gv, err := schema.ParseGroupVersion(apiVersion)
	check(r.t, err)
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"name": name}}}
	for key, value := range fields {
		o.Object[key] = value
	}
	resource := r.Dynamic.Resource(gv.WithResource(plural))
	_, err = resource.Create(r.t.Context(), o, metav1.CreateOptions{})
	check(r.t, err)
	r.later(func(ctx context.Context, name string, options metav1.DeleteOptions) error {
		return resource.Delete(ctx, name, options)
	}, name)
}

func (r *rig) snapshotClasses() {
	fields := map[string]any{"driver": r.driver, "deletionPolicy": "Delete"}
	r.object("snapshot.storage.k8s.io/v1", "VolumeSnapshotClass", "volumesnapshotclasses", "snaps", fields)
	r.object("groupsnapshot.storage.k8s.io/v1", "VolumeGroupSnapshotClass", "volumegroupsnapshotclasses", "snaps", fields)
}

func (r *rig) site(name, secret string) {
	r.object(v1alpha1.GroupVersion.String(), "Site", "sites", name, map[string]any{"spec": map[string]any{"address": name + ":7443", "tlsSecretName": secret}})
}

func (r *rig) secret(name string, data map[string][]byte) {
	r.t.Helper()
	_, err := r.Kube.CoreV1().Secrets(r.DriverNamespace).Create(r.t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{})
	check(r.t, err)
}

// peerKeys are a peer Secret's data, with a certificate that ends then.
func peerKeys(t *testing.T, end time.Time) map[string][]byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.AddDate(-1, 0, 0), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return map[string][]byte{"ca.crt": text, "tls.crt": text, "tls.key": []byte("key")}
}

var allSidecars = []string{"controller", "provisioner", "attacher", "resizer", "snapshotter"}

// findings are LEVEL CHECK OBJECT, with what was found.
func (r *rig) findings() map[string]string {
	r.t.Helper()
	found := map[string]string{}
	for _, f := range preflight.Run(r.t.Context(), r.Cluster, now) {
		key := strings.TrimSpace(string(f.Level) + " " + f.Check + " " + f.Object)
		if _, twice := found[key]; twice {
			r.t.Errorf("found twice: %s", key)
		}
		found[key] = f.Found + " | " + f.Remedy
		if (f.Level == preflight.OK) != (f.Remedy == "") {
			r.t.Errorf("%s: remedy %q", key, f.Remedy)
		}
	}
	return found
}

// want demands findings, and that those contain the texts.
func (r *rig) want(wanted map[string]string) {
	r.t.Helper()
	found := r.findings()
	for key, text := range wanted {
		if got, there := found[key]; !there || !strings.Contains(got, text) {
			r.t.Errorf("%s: got %q, want %q in it; all findings: %v", key, got, text, found)
		}
	}
}

func TestSound(t *testing.T) {
	r := newRig(t)
	r.pod("controller", "", []string{"controller", "--driver-name=" + r.driver}, nil, allSidecars...)
	r.node("n1", "6.12.3-generic", true)
	r.pod("node", "n1", nil, nil, "node", "registrar")
	r.csiDriver(true)
	r.class("disk", "disk.example.com", true, true)
	r.class("fast", "disk.example.com", true, true)
	r.class("lockstep", r.driver, true, true, "backingStorageClass", "disk", "journalStorageClass", "fast")
	r.snapshotClasses()
	r.secret("tls-b", peerKeys(t, now.AddDate(1, 0, 0)))
	r.site("b", "tls-b")
	for key, text := range r.findings() {
		// No peer is there to be connected.
		if !strings.HasPrefix(key, "ok ") && key != "warn peer b" {
			t.Errorf("%s: %s", key, text)
		}
	}
	r.want(map[string]string{"ok kernel n1": "6.12.3", "ok backing class lockstep over fast": "disk.example.com", "ok registration n1": r.driver,
		"ok controller controller--0/snapshotter": "ready", "ok peer Secret b: tls-b": "2027-11-22", "ok group snapshot class": "snaps",
		"ok custom resources lockstep.dev/v1alpha1": "recoveries", "ok kubernetes": "v1."})
}

func TestNothingInstalled(t *testing.T) {
	r := newRig(t)
	r.want(map[string]string{
		"fail controller":                  "no controller of Lockstep",
		"fail CSI driver csi.lockstep.dev": "missing",
		"fail nodes":                       "has none",
		"warn storage class":               "examples/storageclass.yaml",
		"warn snapshot class":              "snapshotClasses.create",
	})
}

func TestBrokenPods(t *testing.T) {
	r := newRig(t)
	crash := map[string]corev1.ContainerState{
		"attacher": {Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
		"resizer":  {Running: &corev1.ContainerStateRunning{}},
	}
	// Under another name, which all else has to follow.
	r.driver = "other.lockstep.dev"
	r.pod("controller", "", []string{"--driver-name=other.lockstep.dev"}, crash, "controller", "attacher", "resizer")
	r.node("old", "5.15.0-91-generic", false)
	r.pod("node", "old", nil, nil, "node", "registrar")
	r.node("broken", "6.9.0", true)
	r.pod("node", "broken", nil, map[string]corev1.ContainerState{"node": {Terminated: &corev1.ContainerStateTerminated{Reason: "Error"}}}, "node", "registrar")
	r.node("bare", "6.9.0", true)
	r.node("tainted", "odd", true, corev1.Taint{Key: "gpu", Effect: corev1.TaintEffectNoSchedule})
	r.csiDriver(false)
	r.want(map[string]string{
		"fail controller controller--0/provisioner": "no such container",
		"warn controller controller--0/snapshotter": "no such container",
		"fail controller controller--0/attacher":    "CrashLoopBackOff",
		"fail controller controller--0/resizer":     "not ready",
		"ok controller controller--0/controller":    "ready",
		"warn kernel old":                           "6.9 or later",
		"fail registration old":                     "does not know other.lockstep.dev",
		"fail node plugin broken":                   "container node has ended: Error",
		"fail node plugin bare":                     "no pod",
		"warn node plugin tainted":                  "taint gpu",
		"warn kernel tainted":                       `"odd"`,
		"fail CSI driver other.lockstep.dev":        "attachRequired is false",
	})
}

func TestBrokenClasses(t *testing.T) {
	r := newRig(t)
	const backing = "backingStorageClass"
	r.class("late", "disk.example.com", true, true)
	r.class("small", "disk.example.com", false, false)
	r.class("static", "kubernetes.io/no-provisioner", true, true)
	r.class("none", r.driver, true, true)
	r.class("gone", r.driver, true, true, backing, "nowhere")
	r.class("self", r.driver, true, true, backing, "gone")
	r.class("early", r.driver, false, true, backing, "late")
	r.class("grows", r.driver, true, true, backing, "small")
	r.class("stays", r.driver, true, false, backing, "small")
	r.class("hand", r.driver, true, true, backing, "static")
	r.want(map[string]string{
		"fail storage class none":              "no backingStorageClass",
		"fail backing class gone over nowhere": "does not exist",
		"fail backing class self over gone":    "Lockstep's own",
		"fail backing class early over late":   "WaitForFirstConsumer",
		"warn backing class grows over small":  "does not allow it",
		"ok backing class stays over small":    "Immediate",
		"warn backing class hand over static":  "makes no volumes",
	})
}

func TestBrokenPeers(t *testing.T) {
	r := newRig(t)
	r.secret("half", map[string][]byte{"tls.crt": []byte("x")})
	r.secret("junk", map[string][]byte{"ca.crt": []byte("x"), "tls.crt": []byte("x"), "tls.key": []byte("x")})
	r.secret("soon", peerKeys(t, now.AddDate(0, 0, 29)))
	r.secret("over", peerKeys(t, now))
	for _, name := range []string{"half", "junk", "soon", "over", "gone"} {
		r.site(name, name)
	}
	r.want(map[string]string{
		"fail peer Secret half: half": "it lacks ca.crt, tls.key",
		"fail peer Secret junk: junk": "no PEM",
		"warn peer Secret soon: soon": "expires on 2026-12-21",
		"fail peer Secret over: over": "expired on 2026-11-22",
		"fail peer Secret gone: gone": "missing",
		"warn peer gone":              "not connected at gone:7443",
	})
}

// TestRights: what may not be looked at is no failure.
func TestRights(t *testing.T) {
	r := newRig(t)
	config := r.api.Config()
	config.Impersonate.UserName = "somebody"
	var err error
	r.Cluster, err = cluster.New(config, "default", r.DriverNamespace)
	check(t, err)
	r.want(map[string]string{"warn controller": "may not be looked at", "warn nodes": "may not be looked at", "warn storage class": "forbidden", "ok kubernetes": ""})
	for key := range r.findings() {
		if strings.HasPrefix(key, "fail ") {
			t.Errorf("%s", key)
		}
	}
}
