package enginepod

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-csi/lockstep/engine/lease"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// Config is what Engines needs; all but Log is required.
type Config struct {
	// Client needs, in the namespace, the rights get, list, watch, create, patch
	// and delete on pods, get, create and delete on disruption budgets, get, watch,
	// create, update and delete on leases, get on claims, and list on events;
	// and, of the cluster, list and watch on volume attachments, and get on
	// nodes.
	Client    kubernetes.Interface
	Namespace string
	Site      string
	// Template is a file with a PodTemplate; it is read for each pod, so that
	// a changed one counts for the next.
	Template string
	// Port of the control API in every pod.
	Port int
	Log  *slog.Logger // nil: discarded
	// Clock measures how long a lease has not changed. nil: the machine's.
	Clock lease.Clock
}

func (c *Config) validate() error {
	if c.Client == nil || c.Namespace == "" || c.Site == "" || c.Template == "" || c.Port == 0 {
		return errors.New("engine pods: a required field of the configuration is missing")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = lease.Boot{}
	}
	return nil
}

// Spec is an engine that is wanted.
type Spec struct {
	Volume string // 32 hexadecimal digits
	Claim  string // NAMESPACE/NAME of the claim that it is for; for people
	Group  string // that the volume is in; for people
	// Store and Journal are the names of its backing claims; Journal may be
	// empty.
	Store   string
	Journal string
	Node    string // that it must run on; empty: any that reaches the claims
	// Attached protects the pod from being evicted.
	Attached bool
	// Lease makes the engine renew a lease.
	Lease bool
}

// Endpoint is a running engine.
type Endpoint struct {
	Address string // of its control API
	Node    string
}

var (
	// ErrElsewhere: the engine runs, or is to run, on another node.
	ErrElsewhere = errors.New("engine runs on another node")
	// ErrNotFenced: an engine may still write. The text says what is waited for;
	// the call may be repeated.
	ErrNotFenced = errors.New("engine may still write")
	// ErrNoClaim: the volume has no backing claim.
	ErrNoClaim = errors.New("volume has no backing claim")
	// ErrForeign: a pod of the engine's name is not this driver's.
	ErrForeign = errors.New("pod belongs to somebody else")
)

// Labels and names of what belongs to a volume.
const (
	labelComponent  = "app.kubernetes.io/component"
	labelManagedBy  = "app.kubernetes.io/managed-by"
	labelVolume     = "lockstep.dev/volume"
	labelSite       = "lockstep.dev/site"
	labelGroup      = kubenames.LabelGroup
	annotationClaim = "lockstep.dev/claim"

	componentEngine = "engine"
	managedBy       = "lockstep"
	containerName   = "engine"

	storeDir   = "/store"
	journalDir = "/journal"
)

// Name is the name of a volume's engine pod, of its disruption budget and of
// its lease.
func Name(volume string) string { return "engine-" + volume }

// template reads what engine pods are made from.
func (c *Config) template() (*corev1.PodTemplateSpec, error) {
	raw, err := os.ReadFile(c.Template)
	if err != nil {
		return nil, fmt.Errorf("read template of engine pods: %w", err)
	}
	var t corev1.PodTemplate
	if err := yaml.UnmarshalStrict(raw, &t); err != nil {
		return nil, fmt.Errorf("read template of engine pods %s: %w", c.Template, err)
	}
	if len(t.Template.Spec.Containers) != 1 || t.Template.Spec.Containers[0].Name != containerName {
		return nil, fmt.Errorf("read template of engine pods %s: want one container, named %s", c.Template, containerName)
	}
	return &t.Template, nil
}

func (c *Config) port() string { return strconv.Itoa(c.Port) }
