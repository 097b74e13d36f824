// Package leaseapi keeps a lease.Record in a Lease object of Kubernetes
// (coordination.k8s.io/v1). It speaks to the API server by plain HTTP, with two
// requests: an engine is small, and a client library of Kubernetes is not.
//
// The object is made by whoever starts the engine. An engine needs the rights
// get and patch on leases.
package leaseapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lockstep-csi/lockstep/engine/lease"
)

// accountDir is where a pod finds its service account.
const accountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// maxAnswerBytes is far more than a Lease has.
const maxAnswerBytes = 1 << 20

// Client is a lease.Store. It may be used concurrently.
type Client struct {
	url       string // of the object
	tokenFile string
	http      *http.Client
	now       func() time.Time
}

var _ lease.Store = (*Client)(nil)

// Config says where the object is and who asks.
type Config struct {
	Server    string // URL of the API server
	CAFile    string // PEM certificates that the server's is verified with
	TokenFile string // bearer token, read anew for each request: it is rotated
	Namespace string
	Name      string // of the Lease
}

// InCluster returns the configuration of a pod for a Lease in its namespace.
func InCluster(name string) (Config, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return Config{}, errors.New("find the API server: KUBERNETES_SERVICE_HOST and _PORT are not set")
	}
	namespace, err := os.ReadFile(filepath.Join(accountDir, "namespace"))
	if err != nil {
		return Config{}, fmt.Errorf("find the pod's namespace: %w", err)
	}
	return Config{
		Server:    "https://" + net.JoinHostPort(host, port),
		CAFile:    filepath.Join(accountDir, "ca.crt"),
		TokenFile: filepath.Join(accountDir, "token"),
		Namespace: strings.TrimSpace(string(namespace)),
		Name:      name,
	}, nil
}

// New returns a client. It sends nothing yet.
func New(c Config) (*Client, error) {
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read the API server's authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read the API server's authority: no certificate in %s", c.CAFile)
	}
	address, err := url.JoinPath(c.Server, "apis/coordination.k8s.io/v1/namespaces", c.Namespace, "leases", c.Name)
	if err != nil {
		return nil, fmt.Errorf("address of the lease: %w", err)
	}
	return &Client{
		url:       address,
		tokenFile: c.TokenFile,
		now:       time.Now,
		http: &http.Client{
			Timeout:   lease.RequestTimeout,
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true},
		},
	}, nil
}

// object is what is used of a Lease.
type object struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Spec struct {
		Holder *string `json:"holderIdentity"`
	} `json:"spec"`
}

// patch changes the fields that it has, if the version is still that one.
type patch struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Spec struct {
		Holder   string `json:"holderIdentity"`
		Duration int    `json:"leaseDurationSeconds"`
		Renewed  string `json:"renewTime"`
	} `json:"spec"`
}

// Get implements lease.Store with a read of what is in etcd.
func (c *Client) Get(ctx context.Context) (lease.Record, error) {
	return c.do(ctx, http.MethodGet, nil)
}

// Put implements lease.Store with a merge patch. The time of renewal makes each
// one another version, and is for people.
func (c *Client) Put(ctx context.Context, holder, version string) (lease.Record, error) {
	var p patch
	p.Metadata.ResourceVersion = version
	p.Spec.Holder = holder
	p.Spec.Duration = int(lease.Takeover / time.Second)
	p.Spec.Renewed = c.now().UTC().Format("2006-01-02T15:04:05.000000Z")
	body, err := json.Marshal(p)
	if err != nil {
		return lease.Record{}, fmt.Errorf("encode lease: %w", err)
	}
	return c.do(ctx, http.MethodPatch, body)
}

func (c *Client) do(ctx context.Context, method string, body []byte) (lease.Record, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.url, bytes.NewReader(body))
	if err != nil {
		return lease.Record{}, err
	}
	token, err := os.ReadFile(c.tokenFile)
	if err != nil {
		return lease.Record{}, fmt.Errorf("read token: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return lease.Record{}, err
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return lease.Record{}, fmt.Errorf("read answer: %w", err)
	}
	return decode(response.StatusCode, answer)
}

func decode(code int, answer []byte) (lease.Record, error) {
	if code == http.StatusConflict {
		return lease.Record{}, lease.ErrConflict
	}
	if code != http.StatusOK {
		var status struct {
			Message string `json:"message"`
		}
		_ = json.Unmarshal(answer, &status) // what cannot be read has no message
		return lease.Record{}, fmt.Errorf("API server: %s: %s", http.StatusText(code), status.Message)
	}
	var o object
	if err := json.Unmarshal(answer, &o); err != nil {
		return lease.Record{}, fmt.Errorf("decode lease: %w", err)
	}
	if o.Metadata.ResourceVersion == "" {
		return lease.Record{}, errors.New("decode lease: it has no resourceVersion")
	}
	r := lease.Record{Version: o.Metadata.ResourceVersion}
	if o.Spec.Holder != nil {
		r.Holder = *o.Spec.Holder
	}
	return r, nil
}
