package chart

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

const (
	root      = "../.."
	chartDir  = root + "/deploy/charts/lockstep"
	kitValues = root + "/tests/e2e/values-kit.yaml"
	namespace = "storage"
)

// everything has all that can be switched on.
const everything = `
site: a
gateway: {enabled: true, service: {type: NodePort, nodePort: 30743, annotations: {x: z}}}
metrics: {serviceMonitor: {enabled: true, labels: {release: prometheus}}}
networkPolicies: {enabled: true, metricsFrom: [{namespaceSelector: {}}]}
snapshotController: {enabled: true}
snapshotClasses: {create: true, default: true}
storageClasses: [{name: lockstep, backingStorageClass: standard, journalStorageClass: fast, default: true,
  reclaimPolicy: Retain, volumeBindingMode: Immediate, allowVolumeExpansion: false, mountOptions: [noatime],
  allowedTopologies: [{matchLabelExpressions: [{key: topology.lockstep.dev/node, values: [node-1]}]}], parameters: {window: 7d}}]
imagePullSecrets: [{name: registry}]
`

// renderings are the values that the invariants are checked with.
var renderings = map[string][]string{
	"default":         nil,
	"everything":      {everything},
	"kit":             {"site: a", "@" + kitValues},
	"kit and gateway": {"site: a\ngateway: {enabled: true}", "@" + kitValues},
	"little": {`
metrics: {enabled: false}
priorityClasses: {create: false, data: system-node-critical, control: system-cluster-critical}
crds: {install: false}
rbac: {aggregate: false}
csiDriver: {storageCapacity: false}
sidecars: {snapshotter: {enabled: false}}
`},
	"other names": {`
driverName: second.example.com
kubeletDir: /data/kubelet
fullnameOverride: other
nameOverride: second
image: {repository: registry.example.com:5000/lockstep, digest: "sha256:` + strings.Repeat("0f", 32) + `"}
site: a
gateway: {enabled: true, replicas: 1, service: {loadBalancerClass: lb.example.com/x, loadBalancerSourceRanges: [10.0.0.0/8]}}
sidecars: {snapshotter: {groupSnapshots: false}}
snapshotClasses: {create: true}
`},
}

// helm is the path of the program, built first where need be.
var helm = sync.OnceValues(func() (string, error) {
	out, err := exec.Command(filepath.Join(root, "tools/tool.sh"), "helm").Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", errors.New(string(exit.Stderr))
	}
	return strings.TrimSpace(string(out)), err
})

// render runs Helm over the chart with values, which are YAML or "@" and a
// file, later ones winning. The error has what Helm said.
func render(t testing.TB, values ...string) (string, error) {
	t.Helper()
	program, err := helm()
	if err != nil {
		t.Fatalf("build helm: %v", err)
	}
	dir := t.TempDir()
	args := []string{"template", "lockstep", chartDir, "--namespace", namespace}
	for _, value := range values {
		file, isFile := strings.CutPrefix(value, "@")
		if !isFile {
			f, err := os.CreateTemp(dir, "values-*.yaml")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString(value); err != nil {
				t.Fatal(err)
			}
			f.Close()
			file = f.Name()
		}
		args = append(args, "--values", file)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+dir, "HELM_CONFIG_HOME="+dir, "HELM_DATA_HOME="+dir)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", errors.New(stderr.String())
	}
	return stdout.String(), nil
}

func mustRender(t testing.TB, values ...string) []*unstructured.Unstructured {
	t.Helper()
	text, err := render(t, values...)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text)
}

// parse splits YAML documents.
func parse(t testing.TB, text string) []*unstructured.Unstructured {
	t.Helper()
	var objects []*unstructured.Unstructured
	reader := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		o := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict(document, &o.Object); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}

// typed decodes an object into the type that its kind has, and fails on fields
// that the type does not have. It is nil for kinds that are not Kubernetes' own.
func typed(t testing.TB, o *unstructured.Unstructured) runtime.Object {
	t.Helper()
	if !scheme.Scheme.Recognizes(o.GroupVersionKind()) {
		return nil
	}
	text, err := o.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Strict: true})
	object, _, err := strict.Decode(text, nil, nil)
	if err != nil {
		t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
	}
	return object
}

// all returns the objects of one type.
func all[T runtime.Object](t testing.TB, objects []*unstructured.Unstructured) []T {
	t.Helper()
	var found []T
	for _, o := range objects {
		if object, ok := typed(t, o).(T); ok {
			found = append(found, object)
		}
	}
	return found
}

// engineTemplate is what the controller makes engine pods from.
func engineTemplate(t testing.TB, objects []*unstructured.Unstructured) *corev1.PodTemplate {
	t.Helper()
	for _, c := range all[*corev1.ConfigMap](t, objects) {
		if text, ok := c.Data["pod.yaml"]; ok {
			return typed(t, parse(t, text)[0]).(*corev1.PodTemplate)
		}
	}
	t.Fatal("no ConfigMap has a pod template")
	return nil
}
