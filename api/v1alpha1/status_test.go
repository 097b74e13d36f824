package v1alpha1_test

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
)

const volume = "0123456789abcdef0123456789abcdef"

// A status that has every field comes back from the API server as it was: the
// definitions drop nothing that the types have.
func TestStatusRoundTrip(t *testing.T) {
	s := startServer(t)
	t.Run("ConsistencyGroup", func(t *testing.T) {
		o, err := s.make(t, "ConsistencyGroup", "shop", "{window: 7d}")
		if err != nil {
			t.Fatal(err)
		}
		want, got := groupStatus(), v1alpha1.ConsistencyGroup{}
		s.status(t, o, &want, &got)
		checkEqual(t, got.Status, want)
		if got.Spec.Window != "7d" {
			t.Errorf("got window %q", got.Spec.Window)
		}
	})
	t.Run("Site", func(t *testing.T) {
		o, err := s.make(t, "Site", "b", "{address: 'b:1'}")
		if err != nil {
			t.Fatal(err)
		}
		want, got := siteStatus(), v1alpha1.Site{}
		s.status(t, o, &want, &got)
		checkEqual(t, got.Status, want)
		if got.Spec.TLSSecretName != "lockstep-peer-tls" {
			t.Errorf("got Secret %q, want the default", got.Spec.TLSSecretName)
		}
	})
	t.Run("Recovery", func(t *testing.T) {
		o, err := s.make(t, "Recovery", "drop-table", "{action: Rewind, group: shop, at: latest}")
		if err != nil {
			t.Fatal(err)
		}
		want, got := recoveryStatus(), v1alpha1.Recovery{}
		s.status(t, o, &want, &got)
		checkEqual(t, got.Status, want)
	})
}

// Every phase, role and state that the constants name is one that the
// definitions take.
func TestStatusEnumerations(t *testing.T) {
	s := startServer(t)
	o, err := s.make(t, "Recovery", "phases", "{action: Undo, group: shop}")
	if err != nil {
		t.Fatal(err)
	}
	for _, phase := range []v1alpha1.RecoveryPhase{
		v1alpha1.PhasePending, v1alpha1.PhaseQuiescing, v1alpha1.PhaseDetaching, v1alpha1.PhaseRewinding, v1alpha1.PhaseFencing,
		v1alpha1.PhasePromoting, v1alpha1.PhasePublishing, v1alpha1.PhaseResuming, v1alpha1.PhaseCompleted, v1alpha1.PhaseFailed,
	} {
		s.status(t, o, &v1alpha1.RecoveryStatus{Phase: phase}, &v1alpha1.Recovery{})
	}
	if o, err = s.make(t, "ConsistencyGroup", "states", "{}"); err != nil {
		t.Fatal(err)
	}
	for _, state := range []v1alpha1.ReplicationState{
		v1alpha1.ReplicationSynced, v1alpha1.ReplicationStreaming, v1alpha1.ReplicationCopying, v1alpha1.ReplicationDisconnected,
	} {
		for _, role := range []v1alpha1.GroupRole{v1alpha1.RolePrimary, v1alpha1.RoleReplica} {
			status := v1alpha1.ConsistencyGroupStatus{Role: role, Replication: &v1alpha1.GroupReplication{Peer: "b", State: state}}
			s.status(t, o, &status, &v1alpha1.ConsistencyGroup{})
		}
	}
}

func TestScheme(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	for kind := range resources {
		for _, name := range []string{kind, kind + "List"} {
			if !scheme.Recognizes(v1alpha1.GroupVersion.WithKind(name)) {
				t.Errorf("the scheme does not know %s", name)
			}
		}
	}
}

func checkEqual(t *testing.T, got, want any) {
	t.Helper()
	if !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func point(checkpoint int64) *v1alpha1.RecoveryPoint {
	at := metav1.NewMicroTime(time.Date(2026, 11, 22, 10, 41, int(checkpoint), 123456000, time.UTC).Local())
	until := metav1.NewMicroTime(at.Add(time.Second))
	return &v1alpha1.RecoveryPoint{Checkpoint: checkpoint, Time: at, ValidUntil: &until, Pins: []string{"a", "b"}}
}

func condition(kind string) []metav1.Condition {
	return []metav1.Condition{{Type: kind, Status: metav1.ConditionTrue, Reason: "AllWell", Message: "all is well",
		ObservedGeneration: 1, LastTransitionTime: metav1.NewTime(point(1).Time.Truncate(time.Second))}}
}

func quantity(text string) *resource.Quantity {
	q := resource.MustParse(text)
	return &q
}

func groupStatus() v1alpha1.ConsistencyGroupStatus {
	return v1alpha1.ConsistencyGroupStatus{
		ObservedGeneration: 1,
		Role:               v1alpha1.RolePrimary,
		Term:               3,
		Settings: &v1alpha1.GroupSettings{CheckpointInterval: "1s", BarrierTimeout: "50ms", Window: "7d",
			JournalSize: quantity("10Gi"), ReplicateTo: "b"},
		MemberCount: 1,
		Members: []v1alpha1.GroupMember{{Volume: volume, Claim: "data", Size: quantity("1Gi"), Node: "node-1", Attached: true,
			Journal: quantity("100Mi"), Lag: &v1alpha1.Lag{Records: 1, Bytes: 4096, Time: "1ms"}, Reason: "Full", Message: "no space"}},
		NewestPoint:    point(9),
		OldestPoint:    point(1),
		AchievedWindow: "23h59m1s",
		Replication: &v1alpha1.GroupReplication{Peer: "b", State: v1alpha1.ReplicationStreaming,
			Lag: &v1alpha1.Lag{Records: 1, Bytes: 4096, Time: "500µs"}, Message: "away"},
		Rewind:     &v1alpha1.OpenRewind{Started: metav1.NewTime(point(1).Time.Truncate(time.Second)), To: *point(2), From: *point(8)},
		Conditions: condition(v1alpha1.GroupReady),
	}
}

func siteStatus() v1alpha1.SiteStatus {
	return v1alpha1.SiteStatus{ObservedGeneration: 1, Connected: true, Version: "v0.1.0", Conditions: condition(v1alpha1.SiteConnected)}
}

func recoveryStatus() v1alpha1.RecoveryStatus {
	started := metav1.NewTime(point(1).Time.Truncate(time.Second))
	return v1alpha1.RecoveryStatus{
		ObservedGeneration: 1,
		Phase:              v1alpha1.PhaseResuming,
		Message:            "scaling up",
		Point:              point(2),
		Before:             point(8),
		RPO:                "3s",
		Term:               4,
		Workloads:          []v1alpha1.ScaledWorkload{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db", Replicas: 1, Restored: true}},
		Claims:             []v1alpha1.RecoveredClaim{{Volume: volume, Claim: "data", PersistentVolume: "lockstep-" + volume, Size: quantity("1Gi")}},
		StartTime:          &started,
		CompletionTime:     &started,
		Conditions:         condition(v1alpha1.RecoveryComplete),
	}
}
