package bundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/cmd/lockstep/bundle"
	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
	"github.com/lockstep-csi/lockstep/internal/apitest"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

const (
	driver = "csi.lockstep.dev"
	// hidden must be in no bundle.
	hidden = "hunter2-swordfish"
)

// kubelet answers requests for logs, which the API server would pass on to one.
type kubelet struct{ next http.RoundTripper }

func (k kubelet) RoundTrip(r *http.Request) (*http.Response, error) {
	if !strings.HasSuffix(r.URL.Path, "/log") {
		return k.next.RoundTrip(r)
	}
	parts := strings.Split(r.URL.Path, "/")
	q := r.URL.Query()
	text := fmt.Sprintf("%s %s previous=%t\n", parts[len(parts)-2], q.Get("container"), q.Get("previous") == "true")
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

func newCluster(t *testing.T) *cluster.Cluster {
	t.Helper()
	api := apitest.Start(t)
	api.Install(t, "../../../deploy/charts/lockstep/files/crds/*.yaml")
	config := api.Config()
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return kubelet{next} })
	c, err := cluster.New(config, api.Namespace(t), api.Namespace(t))
	check(t, err)
	return c
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write makes a bundle and returns its files.
func write(t *testing.T, c *cluster.Cluster) (files map[string]string, problems []string) {
	t.Helper()
	var archive bytes.Buffer
	problems, err := bundle.Write(t.Context(), &archive, bundle.Config{Cluster: c, Driver: driver, Name: "b", Now: time.Unix(0, 0),
		Files: []bundle.File{{Name: "status.json", Data: []byte("{}")}}, Problems: []string{"groups: away"}})
	check(t, err)
	zip, err := gzip.NewReader(&archive)
	check(t, err)
	files = map[string]string{}
	for r := tar.NewReader(zip); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, problems
		}
		check(t, err)
		text, err := io.ReadAll(r)
		check(t, err)
		files[strings.TrimPrefix(header.Name, "b/")] = string(text)
	}
}

func claim(name, class string, annotations map[string]string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
}

func (f *fixture) event(kind, name, message string) {
	f.t.Helper()
	_, err := f.Kube.CoreV1().Events(f.Namespace).Create(f.t.Context(), &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e-" + name},
		InvolvedObject: corev1.ObjectReference{Kind: kind, Name: name, Namespace: f.Namespace}, Message: message, Reason: "Test"}, metav1.CreateOptions{})
	check(f.t, err)
}

type fixture struct {
	*cluster.Cluster
	t *testing.T
}

// newFixture has one of everything, and the hidden text wherever people put
// what is nobody's business.
func newFixture(t *testing.T) *fixture {
	f := &fixture{newCluster(t), t}
	ctx := t.Context()
	applied := map[string]string{"kubectl.kubernetes.io/last-applied-configuration": `{"data":{"password":"` + hidden + `"}}`, "lockstep.dev/group": "shop", "example.com/note": hidden}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "lockstep-ca", Annotations: map[string]string{
		// As other tools than kubectl keep what they have applied.
		"kapp.k14s.io/original":                            `{"data":{"tls.key":"` + base64.StdEncoding.EncodeToString([]byte(hidden)) + `"}}`,
		"kubectl.kubernetes.io/last-applied-configuration": `{"data":{"tls.key":"` + base64.StdEncoding.EncodeToString([]byte(hidden)) + `"}}`}},
		Data: map[string][]byte{"tls.key": []byte(hidden)}, StringData: map[string]string{"text": hidden}}
	_, err := f.Kube.CoreV1().Secrets(f.DriverNamespace).Create(ctx, secret, metav1.CreateOptions{})
	check(t, err)
	for _, namespace := range []string{f.Namespace, f.DriverNamespace} {
		_, err = f.Kube.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "app"}, Data: map[string]string{"k": hidden}}, metav1.CreateOptions{})
		check(t, err)
	}
	catalog := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "lockstep-catalog-000001", Labels: map[string]string{kubenames.LabelCatalog: "entry"}}, Data: map[string]string{"value": "catalogued"}}
	_, err = f.Kube.CoreV1().ConfigMaps(f.DriverNamespace).Create(ctx, catalog, metav1.CreateOptions{})
	check(t, err)

	for _, class := range []*storagev1.StorageClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "ours"}, Provisioner: driver, Parameters: map[string]string{"backingStorageClass": "theirs"}},
		{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}, Provisioner: "other", Parameters: map[string]string{"adminPassword": hidden, "csi.storage.k8s.io/node-stage-secret-name": "named"}},
	} {
		_, err = f.Kube.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{})
		check(t, err)
		t.Cleanup(func() {
			check(t, f.Kube.StorageV1().StorageClasses().Delete(context.Background(), class.Name, metav1.DeleteOptions{}))
		})
	}
	for _, c := range []*corev1.PersistentVolumeClaim{claim("data", "ours", applied), claim("private", "theirs", nil)} {
		_, err = f.Kube.CoreV1().PersistentVolumeClaims(f.Namespace).Create(ctx, c, metav1.CreateOptions{})
		check(t, err)
	}
	f.volumes()
	f.event("PersistentVolumeClaim", "data", "ours is told")
	f.event("PersistentVolumeClaim", "private", hidden)
	f.pods()
	return f
}

// volumes makes a volume that a store is on, with credentials where some drivers have
// them, and attachments of it and of a volume of somebody else.
func (f *fixture) volumes() {
	ctx, on := f.t.Context(), f.DriverNamespace+"-under"
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: on}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		StorageClassName: "theirs", ClaimRef: &corev1.ObjectReference{Namespace: f.DriverNamespace, Name: "store"},
		MountOptions: []string{"vers=3.0", "password=" + hidden},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "other", VolumeHandle: "1",
			VolumeAttributes: map[string]string{"share": "shown", "userPasswd": hidden}}}}}
	_, err := f.Kube.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{})
	check(f.t, err)
	f.t.Cleanup(func() {
		now := int64(0)
		check(f.t, f.Kube.CoreV1().PersistentVolumes().Delete(context.Background(), on, metav1.DeleteOptions{GracePeriodSeconds: &now}))
	})
	private := f.DriverNamespace + "-private"
	for _, name := range []string{on, private} {
		made, err := f.Kube.StorageV1().VolumeAttachments().Create(ctx, &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: storagev1.VolumeAttachmentSpec{Attacher: "other", NodeName: "n1", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &name}}}, metav1.CreateOptions{})
		check(f.t, err)
		made.Status = storagev1.VolumeAttachmentStatus{Attached: true, AttachmentMetadata: map[string]string{"portal": "10.0.0.1", "chapSecret": hidden}}
		_, err = f.Kube.StorageV1().VolumeAttachments().UpdateStatus(ctx, made, metav1.UpdateOptions{})
		check(f.t, err)
		f.t.Cleanup(func() {
			check(f.t, f.Kube.StorageV1().VolumeAttachments().Delete(context.Background(), name, metav1.DeleteOptions{}))
		})
	}
}

// pods makes one of ours, which restarted, and one of an application.
func (f *fixture) pods() {
	env := []corev1.EnvVar{{Name: "HTTPS_PROXY", Value: "http://me:" + hidden + "@proxy"}}
	ours := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "engine-1", Labels: map[string]string{kubenames.LabelVolume: "1"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "engine", Image: "x", Env: env}}}}
	app := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "app"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "x", Args: []string{hidden}}}}}
	made, err := f.Kube.CoreV1().Pods(f.DriverNamespace).Create(f.t.Context(), ours, metav1.CreateOptions{})
	check(f.t, err)
	made.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "engine", RestartCount: 1}}
	_, err = f.Kube.CoreV1().Pods(f.DriverNamespace).UpdateStatus(f.t.Context(), made, metav1.UpdateOptions{})
	check(f.t, err)
	_, err = f.Kube.CoreV1().Pods(f.Namespace).Create(f.t.Context(), app, metav1.CreateOptions{})
	check(f.t, err)
}

// TestNothingHidden is the promise: no Secret's data, nothing of applications.
func TestNothingHidden(t *testing.T) {
	files, _ := write(t, newFixture(t).Cluster)
	for name, text := range files {
		for _, secret := range []string{hidden, base64.StdEncoding.EncodeToString([]byte(hidden))} {
			if strings.Contains(text, secret) {
				t.Errorf("%s has what must not be in it:\n%s", name, text)
			}
		}
	}
	// What the test hid was where it looked.
	for name, text := range map[string]string{
		"resources/secrets.yaml":                       "name: lockstep-ca",
		"resources/pods.yaml":                          "name: HTTPS_PROXY",
		"resources/storageclasses.storage.k8s.io.yaml": "adminPassword: (removed)",
		"resources/persistentvolumeclaims.yaml":        "lockstep.dev/group: shop",
		"resources/persistentvolumes.yaml":             "share: shown",

		"resources/volumeattachments.storage.k8s.io.yaml": "portal: 10.0.0.1",
	} {
		if !strings.Contains(files[name], text) {
			t.Errorf("%s lacks %q:\n%s", name, text, files[name])
		}
	}
}

func TestContent(t *testing.T) {
	files, problems := write(t, newFixture(t).Cluster)
	for name, text := range map[string]string{
		"status.json":                                  "{}",
		"catalog.yaml":                                 "catalogued",
		"logs/engine-1/engine.log":                     "engine-1 engine previous=false",
		"logs/engine-1/engine.previous.log":            "engine-1 engine previous=true",
		"resources/events.yaml":                        "ours is told",
		"resources/storageclasses.storage.k8s.io.yaml": "csi.storage.k8s.io/node-stage-secret-name: named",
		"problems.txt":                                 "groups: away",
	} {
		if !strings.Contains(files[name], text) {
			t.Errorf("%s lacks %q:\n%s", name, text, files[name])
		}
	}
	if strings.Contains(files["resources/persistentvolumeclaims.yaml"], "private") {
		t.Error("a claim of another class is in the bundle")
	}
	if strings.Contains(files["resources/volumeattachments.storage.k8s.io.yaml"], "-private") {
		t.Error("the attachment of a volume that no store is on is in the bundle")
	}
	if len(problems) != 1 {
		t.Errorf("problems: %v", problems)
	}
}

// TestRights: what may not be read is named, and the rest is there.
func TestRights(t *testing.T) {
	api := apitest.Start(t)
	config := api.Config()
	config.Impersonate.UserName = "somebody"
	c, err := cluster.New(config, "default", api.Namespace(t))
	check(t, err)
	files, problems := write(t, c)
	for _, what := range []string{"secrets: ", "logs: ", "pods: ", "recoveries.lockstep.dev: "} {
		if !slices.ContainsFunc(problems, func(p string) bool { return strings.HasPrefix(p, what) && strings.Contains(p, "forbidden") }) {
			t.Errorf("no problem begins with %q: %v", what, problems)
		}
	}
	if files["status.json"] != "{}" {
		t.Errorf("got %v", files)
	}
}
