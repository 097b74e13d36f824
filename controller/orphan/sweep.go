package orphan

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/internal/clock"
)

// DefaultGrace is how long an object has to have been an orphan before it is
// swept.
const DefaultGrace = 10 * time.Minute

// passesPerGrace is how often the sweeper looks during a grace.
const passesPerGrace = 4

// Config of a Sweeper; all is required but what says otherwise.
type Config struct {
	// Client needs, in the namespace, the rights list and delete on pods,
	// disruption budgets, leases and claims, and in the cluster list on volumes
	// and get on claims.
	Client    kubernetes.Interface
	Namespace string
	Site      string
	Driver    string // in the PersistentVolumes of this driver
	// Volumes returns the ids of all volumes that the catalog has.
	Volumes func() []string
	// Unused returns the volumes of the catalog that nobody has ever used, and
	// DeleteUnused deletes one that still is, and is blank.
	Unused       func() ([]controller.Unused, error)
	DeleteUnused func(ctx context.Context, volume string) error
	// Grace is how long an object has to have been an orphan, as this process
	// has seen it without a break.
	Grace time.Duration
	Clock clock.Clock  // nil: the machine's
	Log   *slog.Logger // nil: slog.Default()
}

// Sweeper takes away orphans that hold no data. Use New.
type Sweeper struct {
	cfg Config
	// Those of the last pass: objects by UID, unused volumes by id.
	seen map[string]*orphan
}

type orphan struct {
	since time.Time
	told  bool // that nobody but a person may remove it
}

// New returns a Sweeper, which does nothing before Run.
func New(c Config) (*Sweeper, error) {
	if c.Client == nil || c.Namespace == "" || c.Site == "" || c.Driver == "" || c.Volumes == nil || c.Unused == nil || c.DeleteUnused == nil || c.Grace <= 0 {
		return nil, errors.New("orphan configuration: a required field is missing")
	}
	if c.Clock == nil {
		c.Clock = clock.Wall{}
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Sweeper{cfg: c, seen: map[string]*orphan{}}, nil
}

// Run sweeps until ctx ends. A pass that fails is said in the log and counts as
// none: what was seen before it goes on being seen.
func (s *Sweeper) Run(ctx context.Context) error {
	for {
		timer := s.cfg.Clock.NewTimer(s.cfg.Grace / passesPerGrace)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C():
		}
		if err := s.pass(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("look for orphans", "error", err)
		}
	}
}

// pass looks once and removes what has been an orphan for long enough.
func (s *Sweeper) pass(ctx context.Context) error {
	objects, volumes, err := s.find(ctx)
	if err != nil {
		return err
	}
	last := s.seen
	s.seen = map[string]*orphan{}
	var errs []error
	for _, o := range objects {
		if known, due := s.see(last, string(o.UID)); due {
			errs = append(errs, s.sweep(ctx, o, known))
		}
	}
	for _, v := range volumes {
		if known, due := s.see(last, v.ID); due {
			errs = append(errs, s.discard(ctx, v, known))
		}
	}
	return errors.Join(errs...)
}

// see notes an orphan, and reports whether it has been one for long enough.
func (s *Sweeper) see(last map[string]*orphan, key string) (known *orphan, due bool) {
	now := s.cfg.Clock.Now()
	if known = last[key]; known == nil {
		known = &orphan{since: now}
	}
	s.seen[key] = known
	return known, now.Sub(known.since) >= s.cfg.Grace
}

// sweep removes an object, or tells once that a person has to.
func (s *Sweeper) sweep(ctx context.Context, o Object, known *orphan) error {
	if o.Data {
		if !known.told {
			known.told = true
			s.cfg.Log.Warn("a claim belongs to no volume and may hold data: see `kubectl lockstep orphans`", "claim", o.Name, "volume", o.Volume, "for", o.Claim)
		}
		return nil
	}
	if err := Remove(ctx, s.cfg.Client, s.cfg.Namespace, o); err != nil {
		return err
	}
	s.cfg.Log.Info("removed what belonged to no volume", "kind", o.Kind, "name", o.Name, "volume", o.Volume)
	return nil
}

// discard deletes a volume that nobody wants, or tells once that a person has to.
func (s *Sweeper) discard(ctx context.Context, v controller.Unused, known *orphan) error {
	if v.Copy {
		if !known.told {
			known.told = true
			s.cfg.Log.Warn("a volume that was copied from another one has no PersistentVolume, and its claim is gone: make a PersistentVolume of it to use or to delete it", "volume", v.ID, "claim", v.Claim)
		}
		return nil
	}
	if err := s.cfg.DeleteUnused(ctx, v.ID); err != nil {
		return err
	}
	s.cfg.Log.Info("deleted a volume that nobody has ever used, and whose claim is gone", "volume", v.ID, "claim", v.Claim)
	return nil
}

// find returns the orphans with this site's label, and the unused volumes whose
// claim is gone, which no PersistentVolume names.
func (s *Sweeper) find(ctx context.Context) (objects []Object, unused []controller.Unused, err error) {
	all, err := List(ctx, s.cfg.Client, s.cfg.Namespace)
	if err != nil {
		return nil, nil, err
	}
	// Without the label it may be anybody's.
	objects = slices.DeleteFunc(Of(all, s.cfg.Site, s.cfg.Volumes()), func(o Object) bool { return o.Site != s.cfg.Site })
	volumes, err := s.cfg.Unused()
	if err != nil {
		return nil, nil, err
	}
	for _, v := range volumes {
		wanted, err := s.wanted(ctx, v)
		if err != nil {
			return nil, nil, err
		}
		if !wanted {
			unused = append(unused, v)
		}
	}
	named, err := s.named(ctx)
	if err != nil {
		return nil, nil, err
	}
	objects = slices.DeleteFunc(objects, func(o Object) bool { return named[o.Volume] })
	return objects, slices.DeleteFunc(unused, func(v controller.Unused) bool { return named[v.ID] }), nil
}

// wanted reports whether the claim that a volume was made for is there. Another
// one of that name has another UID, which the volume's name ends with.
func (s *Sweeper) wanted(ctx context.Context, v controller.Unused) (bool, error) {
	namespace, name, _ := strings.Cut(v.Claim, "/")
	claim, err := s.cfg.Client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for claim %s: %w", v.Claim, err)
	}
	return strings.HasSuffix(v.Name, string(claim.UID)), nil
}

// named are the volumes that PersistentVolumes of this driver name.
func (s *Sweeper) named(ctx context.Context) (map[string]bool, error) {
	list, err := s.cfg.Client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	named := map[string]bool{}
	for i := range list.Items {
		if csi := list.Items[i].Spec.CSI; csi != nil && csi.Driver == s.cfg.Driver {
			named[csi.VolumeHandle] = true
		}
	}
	return named, nil
}
