package enginepod

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/controller/kubewait"
	"github.com/lockstep-csi/lockstep/engine/lease"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// notFenced gives the end of a wait its reason.
func notFenced(ctx context.Context, err error, words string) error {
	if ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%w: %s: %w", ErrNotFenced, words, ctx.Err())
}

// awaitDetached waits until no node but one, if any is named, has a backing
// volume of the volume attached. Kubernetes detaches when the pod is gone, and
// from a node that does not answer only when the storage has.
func (e *Engines) awaitDetached(ctx context.Context, volume, except string) error {
	var found []string
	err := kubewait.Until(ctx, func(ctx context.Context) (bool, error) {
		var err error
		found, err = e.attachments(ctx, volume, except)
		return len(found) == 0, err
	}, kubewait.Selected(e.cfg.Client.StorageV1().VolumeAttachments(), ""))
	return notFenced(ctx, err, strings.Join(found, ", "))
}

// awaitUnused waits until no node has a backing volume of the volume attached,
// or until there is a pod of the volume again: an earlier controller that was
// killed, and whose process is not gone yet, may just have made a successor of an
// engine that it saw end. The volume then stays attached for that one.
func (e *Engines) awaitUnused(ctx context.Context, volume string) (again bool, err error) {
	var found []string
	pods := e.cfg.Client.CoreV1().Pods(e.cfg.Namespace)
	err = kubewait.Until(ctx, func(ctx context.Context) (bool, error) {
		p, err := e.podsOf(ctx, volume)
		if again = p.engine != nil; err != nil || again {
			return again, err
		}
		found, err = e.attachments(ctx, volume, "")
		return len(found) == 0, err
	}, kubewait.Selected(e.cfg.Client.StorageV1().VolumeAttachments(), ""), kubewait.Named(pods, Name(volume)), kubewait.Named(pods, kubenames.EngineB(volume)))
	return again, notFenced(ctx, err, strings.Join(found, ", "))
}

// attachments describes what attaches backing volumes of the volume to nodes.
func (e *Engines) attachments(ctx context.Context, volume, except string) ([]string, error) {
	volumes, err := e.backingVolumes(ctx, volume)
	if err != nil || len(volumes) == 0 {
		return nil, err
	}
	list, err := e.cfg.Client.StorageV1().VolumeAttachments().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list volume attachments: %w", err)
	}
	var found []string
	for _, a := range list.Items {
		if pv := a.Spec.Source.PersistentVolumeName; pv != nil && volumes[*pv] && a.Spec.NodeName != except {
			found = append(found, fmt.Sprintf("VolumeAttachment %s attaches %s to node %s", a.Name, *pv, a.Spec.NodeName))
		}
	}
	return found, nil
}

// backingVolumes are the names of the volumes that the claims are bound to.
func (e *Engines) backingVolumes(ctx context.Context, volume string) (map[string]bool, error) {
	names := map[string]bool{}
	for _, name := range []string{kubenames.BackingClaim(volume), kubenames.JournalClaim(volume)} {
		claim, err := e.cfg.Client.CoreV1().PersistentVolumeClaims(e.cfg.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("get claim %s: %w", name, err)
		}
		if err == nil && claim.Spec.VolumeName != "" {
			names[claim.Spec.VolumeName] = true
		}
	}
	return names, nil
}

// sight is a version of a lease, and when it was first seen.
type sight struct {
	version string
	since   time.Duration // of the clock's uptime
}

// seeLease looks at the lease before the rest of the fence is waited for: the
// lease of a node that is lost ages meanwhile. It takes no error for an answer,
// because awaitLease looks again.
func (e *Engines) seeLease(ctx context.Context, volume string) sight {
	object, err := e.cfg.Client.CoordinationV1().Leases(e.cfg.Namespace).Get(ctx, Name(volume), metav1.GetOptions{})
	if err != nil {
		return sight{}
	}
	// The clock is read after the lease, which may not seem older than it is.
	return sight{object.ResourceVersion, e.cfg.Clock.Uptime()}
}

// awaitLease waits until nobody holds the lease, or until it was seen unchanged
// for so long, since seen, that anybody may take it over. Then it is released,
// so that the next engine need not wait as long once more.
func (e *Engines) awaitLease(ctx context.Context, volume string, seen sight) error {
	leases := e.cfg.Client.CoordinationV1().Leases(e.cfg.Namespace)
	err := kubewait.Until(ctx, func(ctx context.Context) (bool, error) {
		object, err := leases.Get(ctx, Name(volume), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("get lease: %w", err)
		}
		if object.Spec.HolderIdentity == nil || *object.Spec.HolderIdentity == "" {
			return true, nil
		}
		now := e.cfg.Clock.Uptime()
		if object.ResourceVersion != seen.version {
			seen = sight{object.ResourceVersion, now}
		}
		if now < seen.since+lease.Takeover {
			return false, nil
		}
		released := ""
		object.Spec.HolderIdentity = &released
		_, err = leases.Update(ctx, object, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			return false, nil // its holder lives, and is seen anew
		}
		return err == nil, errors.Join(err)
	}, kubewait.Named(leases, Name(volume)))
	return notFenced(ctx, err, "lease "+Name(volume)+" is held")
}
