package noderole

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// locked is a text that several goroutines write.
type locked struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// attachments is an API server that has VolumeAttachments of node n1.
type attachments struct {
	url string

	mu      sync.Mutex
	objects map[string]storagev1.VolumeAttachment // by path
	failing bool
	asked   int
}

func startAttachments(t *testing.T) *attachments {
	t.Helper()
	a := &attachments{objects: make(map[string]storagev1.VolumeAttachment)}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	a.url = server.URL
	return a
}

func (a *attachments) config() *rest.Config {
	return &rest.Config{Host: a.url, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}
}

const attachmentsPath = "/apis/storage.k8s.io/v1/volumeattachments/"

func (a *attachments) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	w.Header().Set("Content-Type", "application/json")
	object, found := a.objects[r.URL.Path]
	var answer any = object
	switch {
	case a.failing:
		w.WriteHeader(http.StatusServiceUnavailable)
		answer = metav1.Status{Status: metav1.StatusFailure, Code: http.StatusServiceUnavailable}
	case r.URL.RawQuery != "":
		w.WriteHeader(http.StatusBadRequest) // a resource version would allow an old answer
		answer = metav1.Status{Status: metav1.StatusFailure, Code: http.StatusBadRequest}
	case !found:
		name := strings.TrimPrefix(r.URL.Path, attachmentsPath)
		w.WriteHeader(http.StatusNotFound)
		answer = notFound(name)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// notFound is how an API server says that there is no VolumeAttachment of a name.
func notFound(name string) metav1.Status {
	status := apierrors.NewNotFound(schema.GroupResource{Group: "storage.k8s.io", Resource: "volumeattachments"}, name).Status()
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	return status
}

func (a *attachments) attach(volume, uid string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	name := attachmentName(volume, "csi.example", "n1")
	a.objects[attachmentsPath+name] = storagev1.VolumeAttachment{
		TypeMeta: metav1.TypeMeta{Kind: "VolumeAttachment", APIVersion: "storage.k8s.io/v1"}, ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(uid)},
		Spec: storagev1.VolumeAttachmentSpec{Attacher: "csi.example", NodeName: "n1"},
	}
}

func (a *attachments) detach(volume string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.objects, attachmentsPath+attachmentName(volume, "csi.example", "n1"))
}

func (a *attachments) fail(failing bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failing = failing
}

// count is how often the server has been asked.
func (a *attachments) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

// await waits until it has been asked so often.
func (a *attachments) await(t *testing.T, times int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); a.count() < times; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the API server was asked %d times, want %d", a.count(), times)
		}
	}
}

// TestAttachmentName: as Kubernetes names them, by the SHA-256 of the three words in a row.
func TestAttachmentName(t *testing.T) {
	if got, want := attachmentName("vol", "drv", "node"), "csi-75c705103da62dcfbf1148483950b24857cb1ef40a66c9b95b65683f00dbc90a"; got != want {
		t.Errorf("name %s, want %s", got, want)
	}
}

// TestNodeAttachment: only the API server's own word that there is no such object is
// an answer, and nothing else that looks like it.
func TestNodeAttachment(t *testing.T) {
	api := startAttachments(t)
	ask, err := NodeAttachment(api.config(), "csi.example", "n1")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(t.Context(), "v1"); got != "" || err != nil {
		t.Errorf("not attached: %q, %v", got, err)
	}
	api.attach("v1", "uid-1")
	if got, err := ask(t.Context(), "v1"); got != "uid-1" || err != nil {
		t.Errorf("attached: %q, %v", got, err)
	}
	if got, err := ask(t.Context(), "v2"); got != "" || err != nil {
		t.Errorf("another volume: %q, %v", got, err)
	}
	api.attach("v1", "")
	if got, err := ask(t.Context(), "v1"); err == nil {
		t.Errorf("an object without identity: %q", got)
	}
	api.fail(true)
	if got, err := ask(t.Context(), "v2"); err == nil {
		t.Errorf("a server that fails: %q", got)
	}

	name := attachmentName("v1", "csi.example", "n1")
	another, bare, core := notFound("csi-other"), notFound(name), notFound(name)
	bare.Details, core.Details.Group = nil, ""
	for what, c := range map[string]struct {
		code int
		body any
	}{
		"a page of a proxy":    {http.StatusNotFound, "404 page not found"},
		"an empty answer":      {http.StatusNotFound, nil},
		"about another object": {http.StatusNotFound, another},
		"about nothing":        {http.StatusNotFound, bare},
		"about another kind":   {http.StatusNotFound, core},
		"forbidden":            {http.StatusForbidden, apierrors.NewForbidden(schema.GroupResource{Group: "storage.k8s.io", Resource: "volumeattachments"}, name, nil).Status()},
		"gone":                 {http.StatusGone, apierrors.NewResourceExpired("it is gone").Status()},
		"of another node":      {http.StatusOK, storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u"}, Spec: storagev1.VolumeAttachmentSpec{Attacher: "csi.example", NodeName: "n2"}}},
		"of another driver":    {http.StatusOK, storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u"}, Spec: storagev1.VolumeAttachmentSpec{Attacher: "other", NodeName: "n1"}}},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if text, plain := c.body.(string); plain {
				http.Error(w, text, c.code)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(c.code)
			if c.body != nil {
				_ = json.NewEncoder(w).Encode(c.body)
			}
		}))
		ask, err := NodeAttachment(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}, "csi.example", "n1")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ask(t.Context(), "v1"); err == nil {
			t.Errorf("%s: is taken for an answer: %q", what, got)
		}
		server.Close()
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if ask, err := AttachmentInCluster("csi.example", "n1"); ask != nil || err != nil {
		t.Errorf("outside of a cluster: %v", err)
	}
}
