package apitest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Kind is what happens to a request that a Fault hits.
type Kind int

const (
	// Unsent: the connection breaks before the server has the request.
	Unsent Kind = iota
	// Unanswered: the server carries the request out; the answer is lost.
	Unanswered
	// Late: the client is told that the connection broke, and the server gets
	// the request when the test calls Deliver.
	Late
)

func (k Kind) String() string { return [...]string{"unsent", "unanswered", "late"}[k] }

// errBroken is what the client sees. Like a reset connection it says nothing
// about what the server did.
var errBroken = errors.New("apitest: connection broken")

// Fault stands between one client and the server and breaks what Break says.
// It counts all requests but watches. It may be used concurrently.
type Fault struct {
	server http.RoundTripper

	mu    sync.Mutex // guards the fields below
	count int
	at    int // number of the request that is hit, from 1; 0: none
	kind  Kind
	dead  int // from this request on nothing is sent; 0: never
	// writes: reads are not counted, and are sent until the client is cut off.
	writes bool
	late   []func() error
}

// Fault returns a client of the administrator and the Fault in its way, which
// breaks nothing yet.
func (s *Server) Fault() (kubernetes.Interface, *Fault, error) {
	config, f := s.FaultConfig()
	client, err := kubernetes.NewForConfig(config)
	return client, f, err
}

// FaultConfig is Config with a Fault in the way of the one client that is made
// with it.
func (s *Server) FaultConfig() (*rest.Config, *Fault) {
	f := &Fault{}
	config := s.Config()
	config.Wrap(func(server http.RoundTripper) http.RoundTripper {
		f.server = server
		return f
	})
	return config, f
}

// Break hits the request with number at, and cuts the client off from request
// dead on. Requests are counted from 1 for the first one after this call; 0
// means none.
func (f *Fault) Break(at int, kind Kind, dead int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count, f.at, f.kind, f.dead, f.writes = 0, at, kind, dead, false
}

// BreakWrite is Break with reads not counted, for code that reads as often as
// something changes.
func (f *Fault) BreakWrite(at int, kind Kind, dead int) {
	f.Break(at, kind, dead)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes = true
}

// Count is the number of requests since Break.
func (f *Fault) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

// Deliver gives the server the late requests, and returns their transport
// errors: what the server answers, nobody hears.
func (f *Fault) Deliver() error {
	f.mu.Lock()
	late := f.late
	f.late = nil
	f.mu.Unlock()
	var failed error
	for _, send := range late {
		failed = errors.Join(failed, send())
	}
	return failed
}

// RoundTrip implements http.RoundTripper.
func (f *Fault) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Query().Get("watch") != "" {
		return f.server.RoundTrip(request)
	}
	hit, dead := f.next(request.Method)
	switch {
	case hit && f.kind == Unanswered:
		response, err := f.server.RoundTrip(request)
		if err == nil {
			err = errors.Join(discard(response), errBroken)
		}
		return nil, err
	case hit && f.kind == Late:
		return nil, errors.Join(f.keep(request), errBroken)
	case hit || dead:
		return nil, errBroken
	}
	return f.server.RoundTrip(request)
}

// next counts a request.
func (f *Fault) next(method string) (hit, dead bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.writes && method == http.MethodGet {
		return false, f.dead != 0 && f.count+1 >= f.dead
	}
	f.count++
	return f.at != 0 && f.count == f.at, f.dead != 0 && f.count >= f.dead
}

// keep makes a copy of the request that outlives the client's call.
func (f *Fault) keep(request *http.Request) error {
	again := request.Clone(context.WithoutCancel(request.Context()))
	if request.Body != nil {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return err
		}
		again.Body = io.NopCloser(bytes.NewReader(body))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.late = append(f.late, func() error {
		response, err := f.server.RoundTrip(again)
		if err != nil {
			return err
		}
		return discard(response)
	})
	return nil
}

func discard(response *http.Response) error {
	_, err := io.Copy(io.Discard, response.Body)
	return errors.Join(err, response.Body.Close())
}
