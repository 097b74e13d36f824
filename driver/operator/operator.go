package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	rtcontroller "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/internal/clock"
)

// DefaultInterval is how often groups are looked at.
const DefaultInterval = 2 * time.Second

// Config is what an Operator needs. All but Interval, Clock and Log is required.
type Config struct {
	// Rest is how the API server is reached, with the controller's rights.
	Rest       *rest.Config
	Site       string // this site's name
	DriverName string // of CSI
	Fleet      Fleet
	Catalog    Catalog
	Peers      *Peers // stays the caller's
	// Interval is how often groups are looked at for what nothing tells of; 0:
	// DefaultInterval.
	Interval time.Duration
	Clock    clock.Clock  // nil: the machine's
	Log      *slog.Logger // nil: discarded
}

// Validate reports the first field that cannot be used, and fills in defaults.
func (c *Config) Validate() error {
	if c.Rest == nil || c.Site == "" || c.DriverName == "" || c.Fleet == nil || c.Catalog == nil || c.Peers == nil {
		return errors.New("operator configuration: a required field is missing")
	}
	if c.Interval < 0 {
		return errors.New("operator configuration: Interval is negative")
	}
	if c.Interval == 0 {
		c.Interval = DefaultInterval
	}
	if c.Clock == nil {
		c.Clock = clock.Wall{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Operator runs the reconcilers of this package.
type Operator struct {
	cfg    Config
	mgr    manager.Manager
	direct client.Client // reads past the cache
	ticks  chan event.TypedGenericEvent[types.NamespacedName]
}

// New prepares an operator. It talks to the API server, to learn its kinds, and
// starts nothing.
func New(cfg Config) (*Operator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	o := &Operator{cfg: cfg, ticks: make(chan event.TypedGenericEvent[types.NamespacedName])}
	ctrllog.SetLogger(logr.FromSlogHandler(cfg.Log.Handler())) // of clients, which have none of their own
	// One operator for a process, and several in a test of it.
	skip := true
	var err error
	o.mgr, err = manager.New(cfg.Rest, manager.Options{
		Scheme:                 newScheme(),
		Logger:                 logr.FromSlogHandler(cfg.Log.Handler()),
		Metrics:                server.Options{BindAddress: "0"},
		HealthProbeBindAddress: "0",
		Cache:                  cache.Options{DefaultTransform: cache.TransformStripManagedFields()},
		Controller:             config.Controller{SkipNameValidation: &skip},
	})
	if err != nil {
		return nil, fmt.Errorf("make manager: %w", err)
	}
	if o.direct, err = client.New(cfg.Rest, client.Options{Scheme: o.mgr.GetScheme(), Mapper: o.mgr.GetRESTMapper()}); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	if err := o.setUp(); err != nil {
		return nil, fmt.Errorf("set up reconcilers: %w", err)
	}
	return o, nil
}

func (o *Operator) setUp() error {
	tell := events{o.mgr.GetEventRecorder("lockstep")}
	c := &o.cfg
	m := &membership{client: o.mgr.GetClient(), decider: decider{o.mgr.GetClient(), o.direct}, fleet: c.Fleet, catalog: c.Catalog,
		driver: c.DriverName, events: tell, log: c.Log}
	k := &groupKeeper{client: o.mgr.GetClient(), fleet: c.Fleet, catalog: c.Catalog, events: tell, clock: c.Clock, log: c.Log,
		applied: map[types.NamespacedName]application{}, written: map[types.NamespacedName]time.Time{}, silent: map[types.NamespacedName]time.Time{}}
	s := &siteKeeper{client: o.mgr.GetClient(), site: c.Site, peers: c.Peers, fleet: c.Fleet, clock: c.Clock, log: c.Log}
	return errors.Join(
		m.setUp(o.mgr),
		o.setUpGroups(k),
		ctrl.NewControllerManagedBy(o.mgr).Named("site").
			For(&v1alpha1.Site{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
			WithOptions(rtcontroller.Options{RateLimiter: patiently()}).Complete(s),
		ctrl.NewControllerManagedBy(o.mgr).Named("recovery").
			For(&v1alpha1.Recovery{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
			WithOptions(rtcontroller.Options{MaxConcurrentReconciles: recoveriesAtOnce, RateLimiter: patiently()}).Complete(o.recoverer(tell)),
		o.mgr.Add(manager.RunnableFunc(o.tick)),
	)
}

// recoveriesAtOnce is how many groups can be recovered at a time: one of them may
// wait for engines.
const recoveriesAtOnce = 8

// longestBackoff bounds the time between two attempts where people wait for the
// outcome: after an outage of the API server, or of engines, a failover goes on within it.
const longestBackoff = 10 * time.Second

// patiently is how long after a failure something is tried again. The usual limiter
// grows to 16 minutes.
func patiently() workqueue.TypedRateLimiter[reconcile.Request] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](5*time.Millisecond, longestBackoff)
}

func (o *Operator) recoverer(tell events) *recoverer {
	d := decider{o.direct, o.direct}
	return &recoverer{client: o.direct, scaler: scaler{o.direct, d}, fleet: o.cfg.Fleet, catalog: o.cfg.Catalog, driver: o.cfg.DriverName,
		events: tell, clock: o.cfg.Clock, log: o.cfg.Log}
}

// setUpGroups has a group looked at when its resource changes, and all of them
// every Interval.
func (o *Operator) setUpGroups(k *groupKeeper) error {
	enqueue := handler.TypedFuncs[types.NamespacedName, reconcile.Request]{GenericFunc: enqueueKey}
	return ctrl.NewControllerManagedBy(o.mgr).Named("group").
		For(&v1alpha1.ConsistencyGroup{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(source.TypedChannel(o.ticks, enqueue)).
		Complete(k)
}

// tick names all groups, and all resources, every Interval.
func (o *Operator) tick(ctx context.Context) error {
	for {
		timer := o.cfg.Clock.NewTimer(o.cfg.Interval)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		keys, err := o.keys(ctx)
		if err != nil {
			o.cfg.Log.Warn("groups are not looked at", "error", err)
			continue
		}
		for _, key := range keys {
			select {
			case o.ticks <- event.TypedGenericEvent[types.NamespacedName]{Object: key}:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

func (o *Operator) keys(ctx context.Context) ([]types.NamespacedName, error) {
	var resources v1alpha1.ConsistencyGroupList
	if err := o.mgr.GetClient().List(ctx, &resources); err != nil {
		return nil, err
	}
	var keys []types.NamespacedName
	for i := range resources.Items {
		keys = append(keys, client.ObjectKeyFromObject(&resources.Items[i]))
	}
	for _, st := range o.cfg.Fleet.States() {
		if key, ok := groupKey(st.Name); ok && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// Run reconciles until ctx ends, and returns when everything that it started has
// ended. Call it once.
func (o *Operator) Run(ctx context.Context) error {
	if err := o.mgr.Start(ctx); err != nil {
		return fmt.Errorf("run operator: %w", err)
	}
	return nil
}

func enqueueKey(_ context.Context, e event.TypedGenericEvent[types.NamespacedName], queue workqueue.TypedRateLimitingInterface[reconcile.Request]) {
	queue.Add(reconcile.Request{NamespacedName: e.Object})
}
