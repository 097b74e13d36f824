package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/internal/clock"
)

const (
	// siteInterval is how often a peer is looked at.
	siteInterval = 10 * time.Second
	// siteTimeout bounds how long it may take to answer.
	siteTimeout = 5 * time.Second
)

// Reasons of a Site that is no peer at all, whether or not it answers.
const (
	reasonOwnSite       = "OwnSite"
	reasonNoCertificate = "NoCertificate"
)

// siteKeeper keeps the connections to peers as their Sites say.
type siteKeeper struct {
	client client.Client
	site   string // this one
	peers  *Peers
	fleet  Fleet
	clock  clock.Clock
	log    *slog.Logger
}

// Reconcile implements reconcile.Reconciler for a Site.
func (k *siteKeeper) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var site v1alpha1.Site
	err := k.client.Get(ctx, req.NamespacedName, &site)
	if apierrors.IsNotFound(err) || err == nil && site.DeletionTimestamp != nil {
		changed, err := k.peers.drop(req.Name)
		return reconcile.Result{}, errors.Join(err, k.announce(ctx, req.Name, changed))
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	version, reason, problem := k.connect(ctx, &site)
	if err := k.write(ctx, &site, version, reason, problem); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: siteInterval}, nil
}

// connect makes the site a peer and finds out whether it answers, and which
// version runs there.
func (k *siteKeeper) connect(ctx context.Context, site *v1alpha1.Site) (version, reason string, problem error) {
	if site.Name == k.site {
		return "", reasonOwnSite, errors.New("this is the name of this site: a Site is another installation")
	}
	changed, err := k.peers.set(site.Name, site.Spec.Address, secretOf(site))
	if err != nil {
		return "", reasonNoCertificate, err
	}
	if err := k.announce(ctx, site.Name, changed); err != nil {
		k.log.Warn("groups do not take notice of a peer", "site", site.Name, "error", err)
	}
	checking, cancel := context.WithTimeout(ctx, siteTimeout)
	defer cancel()
	if version, err = k.peers.check(checking, site.Name); err != nil {
		return "", "NotConnected", err
	}
	for _, st := range k.fleet.States() {
		if st.Settings.ReplicateTo != site.Name {
			continue
		}
		if s, err := k.fleet.Summary(checking, st.Name); err == nil && s.Sending != nil && s.Sending.LastError != nil {
			return version, "AnnouncementRefused", fmt.Errorf("group %s: %w", st.Name, s.Sending.LastError)
		}
	}
	return version, reasonConnected, nil
}

func (k *siteKeeper) announce(ctx context.Context, site string, changed bool) error {
	if !changed {
		return nil
	}
	return k.fleet.PeerChanged(ctx, site)
}

func secretOf(site *v1alpha1.Site) string {
	return orDefault(site.Spec.TLSSecretName, DefaultPeerSecret)
}

// DefaultPeerSecret is the Secret of a Site that names none.
const DefaultPeerSecret = "lockstep-peer-tls"

// write notes what was found out. The version that was seen last stays while the
// peer does not answer.
func (k *siteKeeper) write(ctx context.Context, site *v1alpha1.Site, version, reason string, problem error) error {
	next := site.DeepCopy()
	next.Status.Version = orDefault(version, site.Status.Version)
	next.Status.ObservedGeneration, next.Status.Connected = site.Generation, problem == nil
	condition := metav1.Condition{Type: v1alpha1.SiteConnected, Status: metav1.ConditionTrue, Reason: reason, ObservedGeneration: site.Generation,
		LastTransitionTime: metav1.NewTime(k.clock.Now())}
	if problem != nil {
		condition.Status, condition.Message = metav1.ConditionFalse, problem.Error()
	}
	setCondition(&next.Status.Conditions, condition)
	if equality.Semantic.DeepEqual(site.Status, next.Status) {
		return nil
	}
	err := k.client.Status().Update(ctx, next)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write status of Site %s: %w", site.Name, err)
	}
	return nil
}

// replicaClass is the class of this cluster that replicas of a site's volumes
// have: the one that its Site names, or the one that a volume has at the peer.
func replicaClass(ctx context.Context, reader client.Reader, site, announced string) (*storagev1.StorageClass, error) {
	var resource v1alpha1.Site
	err := reader.Get(ctx, types.NamespacedName{Name: site}, &resource)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("read Site %s: %w", site, err)
	}
	name := orDefault(resource.Spec.ReplicaStorageClass, announced)
	if name == "" {
		return nil, fmt.Errorf("replicas of site %s have no storage class: set replicaStorageClass of Site %s", site, site)
	}
	var class storagev1.StorageClass
	if err := reader.Get(ctx, types.NamespacedName{Name: name}, &class); err != nil {
		return nil, fmt.Errorf("storage class %s for replicas of site %s: %w", name, site, err)
	}
	return &class, nil
}

// ReplicaBacking returns what replicas of a site's volumes live on:
// fleet.Config's ReplicaBacking is to be made of it. announced is the class that
// the volume has at the peer.
func (o *Operator) ReplicaBacking(ctx context.Context, site, announced string) (fleet.BackingClass, error) {
	class, err := replicaClass(ctx, o.direct, site, announced)
	if err != nil {
		return fleet.BackingClass{}, err
	}
	if class.Provisioner != o.cfg.DriverName {
		return fleet.BackingClass{}, fmt.Errorf("storage class %s is of provisioner %s: replicas need one of %s", class.Name, class.Provisioner, o.cfg.DriverName)
	}
	out := fleet.BackingClass{Class: class.Parameters[controller.ParameterBackingClass], JournalClass: class.Parameters[controller.ParameterJournalClass]}
	if out.Class == "" {
		return out, fmt.Errorf("storage class %s has no parameter %s", class.Name, controller.ParameterBackingClass)
	}
	return out, nil
}
