package enginepod

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// HandOver replaces a running engine by another one on its node, with I/O
// waiting no longer than one process takes to close the store and the other to
// open it. It returns when a successor's container runs and the engine's pod is
// being deleted; Run then returns the successor. Nothing happens if there is no
// engine.
//
// The successor is started first. It waits for the place of the engine, which
// the engine's process keeps until its store is closed or it is dead
// (driver/enginepod, place.go). The engine's pod is deleted only when the
// successor's container runs, and its process serves on until it sees that
// somebody waits. So HandOver may end, or be abandoned, after any step; Run, Stop
// and HandOver find what it left.
//
// Where the claims allow one pod only the engine's pod is deleted and waited
// for, and Run makes the next one.
func (e *Engines) HandOver(ctx context.Context, s Spec) error {
	p, err := e.podsOf(ctx, s.Volume)
	if err != nil || p.engine == nil {
		return err
	}
	if p.engine.Spec.NodeName == "" || ended(p.engine) {
		return e.remove(ctx, p.engine) // it has nothing to hand over
	}
	next, err := e.succeed(ctx, s, p)
	if errors.Is(err, ErrAlone) {
		return e.remove(ctx, p.engine)
	}
	if err != nil {
		return fmt.Errorf("hand over from engine pod %s: %w", p.engine.Name, err)
	}
	if next == nil {
		return fmt.Errorf("hand over from engine pod %s: a pod named %s has come meanwhile", p.engine.Name, otherName(s.Volume, p.engine.Name))
	}
	_, gone, err := e.awaitRunning(ctx, next, func(string) {})
	switch {
	case err != nil:
		return fmt.Errorf("hand over from engine pod %s: %w", p.engine.Name, err)
	case gone:
		return fmt.Errorf("hand over from engine pod %s: %s has ended: %s", p.engine.Name, next.Name, Waiting(next))
	}
	// What it comes to has to be known: the end of the engine, which may follow at
	// once, is what ends ctx.
	releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	return e.release(releasing, p.engine)
}

// releaseTimeout bounds the request that ends an engine.
const releaseTimeout = 10 * time.Second

// release has an engine whose successor runs end.
func (e *Engines) release(ctx context.Context, engine *corev1.Pod) error {
	if engine.DeletionTimestamp != nil {
		return nil
	}
	err := e.cfg.Client.CoreV1().Pods(e.cfg.Namespace).Delete(ctx, engine.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(engine.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete engine pod %s: %w", engine.Name, err)
	}
	return nil
}

// Upgrade is HandOver of an engine that was made of an older template. ErrHeld,
// and nothing happened, if its pod has the annotation that holds it. The claim
// that the volume is for gets an event.
func (e *Engines) Upgrade(ctx context.Context, s Spec) error {
	p, err := e.podsOf(ctx, s.Volume)
	if err != nil || p.engine == nil {
		return err
	}
	if p.engine.Annotations[annotationUpgrade] == upgradeManual {
		return fmt.Errorf("engine pod %s: %w by its annotation %s", p.engine.Name, ErrHeld, annotationUpgrade)
	}
	if err := e.HandOver(ctx, s); errors.Is(err, context.Canceled) {
		return err // something else came first
	} else if err != nil {
		e.tell(s, corev1.EventTypeWarning, "EngineNotUpgraded", err.Error())
		return err
	}
	e.tell(s, corev1.EventTypeNormal, "EngineUpgraded", fmt.Sprintf("the engine of the volume was handed over from pod %s, which ran %s, to one of the present template",
		p.engine.Name, p.engine.Spec.Containers[0].Image))
	return nil
}

// eventTimeout bounds telling an event.
const eventTimeout = 5 * time.Second

// maxEventBytes is what the API server takes of a message.
const maxEventBytes = 1024

// tell makes an event at the claim that a volume is for. It is for people, and
// what fails is logged only.
func (e *Engines) tell(s Spec, kind, reason, message string) {
	namespace, name, found := cutClaim(s.Claim)
	if !found {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), eventTimeout)
	defer cancel()
	about := corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: namespace, Name: name}
	claim, err := e.cfg.Client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		about.UID = claim.UID
		now := metav1.Now()
		_, err = e.cfg.Client.CoreV1().Events(namespace).Create(ctx, &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{GenerateName: name + ".", Namespace: namespace},
			InvolvedObject: about, Type: kind, Reason: reason, Message: message[:min(len(message), maxEventBytes)],
			Source: corev1.EventSource{Component: managedBy}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
		}, metav1.CreateOptions{})
	}
	if err != nil {
		e.cfg.Log.Info("event is not told", "claim", s.Claim, "reason", reason, "message", message, "error", err)
	}
}
