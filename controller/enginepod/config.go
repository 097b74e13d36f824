package enginepod

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

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
	// and, of the cluster, list and watch on volume attachments, get on nodes
	// and claims, and create on events.
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
	// Nudge is how long a pod that has its node may take to start until its kubelet
	// is asked to look at it again. 0: 2 s.
	Nudge time.Duration
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
	if c.Nudge == 0 {
		c.Nudge = nudgeFirst
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
	// Template is what its pod is made of; see Engines.Template. Empty for one
	// that cannot be handed over, because a version made it that did not know
	// how.
	Template string
}

var (
	// ErrElsewhere: the engine runs, or is to run, on another node.
	ErrElsewhere = errors.New("engine runs on another node")
	// ErrNotFenced: an engine may still write. The text says what is waited for;
	// the call may be repeated.
	ErrNotFenced = errors.New("engine may still write")
	// ErrNoClaim: the volume has no backing claim.
	ErrNoClaim = errors.New("volume has no backing claim")
	// ErrHeld: the engine is not to be replaced for an upgrade.
	ErrHeld = errors.New("engine is held back from upgrades")
	// ErrAlone: the backing claim can be used by one pod at a time, so that an
	// engine must be gone before the next one starts.
	ErrAlone = errors.New("backing claim is for one pod at a time")
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
	// annotationTemplate is a digest of the template that a pod was made of.
	annotationTemplate = "lockstep.dev/template"
	// annotationSucceeds is the uid of the pod that a successor follows.
	annotationSucceeds = "lockstep.dev/succeeds"
	// annotationNudged counts how often a pod's kubelet was asked to look again.
	annotationNudged = "lockstep.dev/nudged"
	// annotationUpgrade with upgradeManual, at an engine's pod or at the
	// PodTemplate, keeps engines that run from being upgraded.
	annotationUpgrade = "lockstep.dev/upgrade"
	upgradeManual     = "Manual"

	componentEngine = "engine"
	managedBy       = "lockstep"
	containerName   = "engine"

	storeDir   = "/store"
	journalDir = "/journal"

	// handoverWait is how long an engine that is deleted serves on until its
	// successor runs: several times what a pod takes to start.
	handoverWait = 15 * time.Second
)

// Name is the name of a volume's disruption budget and of its lease, and of its
// engine pod, unless that has followed another one.
func Name(volume string) string { return kubenames.Engine(volume) }

// cutClaim splits NAMESPACE/NAME.
func cutClaim(claim string) (namespace, name string, found bool) { return strings.Cut(claim, "/") }

// Template is a digest of what engine pods are made from now. Engines of
// another one are to be handed over, one after the other, unless manual says
// that they are left alone.
func (e *Engines) Template() (digest string, manual bool, err error) {
	t, err := e.cfg.template()
	if err != nil {
		return "", false, err
	}
	digest, err = digestOf(&t.Template)
	return digest, t.Annotations[annotationUpgrade] == upgradeManual, err
}

func digestOf(t *corev1.PodTemplateSpec) (string, error) {
	raw, err := json.Marshal(t)
	if err != nil {
		return "", fmt.Errorf("encode template of engine pods: %w", err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8]), nil
}

// template reads what engine pods are made from.
func (c *Config) template() (*corev1.PodTemplate, error) {
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
	return &t, nil
}

func (c *Config) port() string { return strconv.Itoa(c.Port) }
