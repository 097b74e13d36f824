package main

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/api/v1alpha1"
)

// The plugin's rewind and failover print what a site's own do, and the
// recovery; null where nothing was made, as with --dry-run.
type (
	recoveredRewindDocument struct {
		rewindStartedDocument
		Recovery *recoveryDocument `json:"recovery"`
	}
	recoveredUndoDocument struct {
		rewindUndoneDocument
		Recovery *recoveryDocument `json:"recovery"`
	}
	recoveredCommitDocument struct {
		rewindCommittedDocument
		Recovery *recoveryDocument `json:"recovery"`
	}
	recoveredFailoverDocument struct {
		failedOverDocument
		Recovery *recoveryDocument `json:"recovery"`
	}
)

// recoveryMadeDocument is the output with --wait=false.
type recoveryMadeDocument struct {
	Recovery *recoveryDocument `json:"recovery"`
}

type recoveryDocument struct {
	Namespace string                   `json:"namespace"`
	Name      string                   `json:"name"`
	Action    string                   `json:"action"`
	Group     string                   `json:"group"`
	Phase     string                   `json:"phase"`
	Message   string                   `json:"message"`
	Phases    []phaseDocument          `json:"phases"`
	Workloads []workloadDocument       `json:"workloads"`
	Claims    []recoveredClaimDocument `json:"claims"`
}

// phaseDocument is when a phase began.
type phaseDocument struct {
	Phase string  `json:"phase"`
	Time  *string `json:"time"`
}

type workloadDocument struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Replicas int32  `json:"replicas"`
	Restored bool   `json:"restored"`
}

type recoveredClaimDocument struct {
	VolumeID         string `json:"volumeID"`
	Claim            string `json:"claim"`
	PersistentVolume string `json:"persistentVolume"`
}

func recoveryOf(r *v1alpha1.Recovery) *recoveryDocument {
	return &recoveryDocument{
		Namespace: r.Namespace, Name: r.Name, Action: string(r.Spec.Action), Group: r.Spec.Group,
		Phase: string(r.Status.Phase), Message: r.Status.Message,
		Phases: each(r.Status.Phases, func(e v1alpha1.PhaseEntry) phaseDocument {
			return phaseDocument{Phase: string(e.Phase), Time: timeText(timestamppb.New(e.Time.Time))}
		}),
		Workloads: each(r.Status.Workloads, func(w v1alpha1.ScaledWorkload) workloadDocument {
			return workloadDocument{Kind: w.Kind, Name: w.Name, Replicas: w.Replicas, Restored: w.Restored}
		}),
		Claims: each(r.Status.Claims, func(c v1alpha1.RecoveredClaim) recoveredClaimDocument {
			return recoveredClaimDocument{VolumeID: c.Volume, Claim: c.Claim, PersistentVolume: c.PersistentVolume}
		}),
	}
}

func recoveryMadeResult(r *v1alpha1.Recovery, follow string) result {
	return result{
		document: recoveryMadeDocument{recoveryOf(r)},
		names:    []string{"recoveries.lockstep.dev/" + r.Name},
		show: func(p *page) {
			p.line("recovery %s/%s made, follow it with `%s`", r.Namespace, r.Name, follow)
		},
	}
}

// recoveredPoint is a recovery's point as the admin API has it. How many
// members it holds, a recovery does not tell.
func recoveredPoint(p *v1alpha1.RecoveryPoint) *adminv1.Point {
	if p == nil {
		return nil
	}
	point := &adminv1.Point{Checkpoint: uint64(max(p.Checkpoint, 0)), Time: timestamppb.New(p.Time.Time), Pins: p.Pins}
	if p.ValidUntil != nil {
		point.ValidUntil = timestamppb.New(p.ValidUntil.Time)
	}
	return point
}

// recoveryTook is how long a recovery was at work; in whole seconds where the
// controller is older than the times of phases.
func recoveryTook(s v1alpha1.RecoveryStatus) *durationpb.Duration {
	if began, ended := s.Entered(v1alpha1.PhasePending), s.Entered(s.Phase); !began.IsZero() && !ended.IsZero() && s.Phase.Ended() {
		return durationpb.New(max(ended.Sub(began), 0))
	}
	if s.StartTime == nil || s.CompletionTime == nil {
		return nil
	}
	return durationpb.New(max(s.CompletionTime.Sub(s.StartTime.Time), 0))
}

func recoveryStarted(t *metav1.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(t.Time)
}

// recoveryRPO is nil when the recovery does not tell.
func recoveryRPO(d v1alpha1.Duration) *durationpb.Duration {
	rpo, err := d.Parse()
	if d == "" || err != nil {
		return nil
	}
	return durationpb.New(max(rpo, time.Duration(0)))
}
