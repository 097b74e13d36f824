package operator

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
)

// news is an event to be told.
type news struct {
	kind, reason, action, text string
	volume                     string // that it is of; empty: the group
}

// conditionNews is what becoming false and becoming true of a condition is
// called.
var conditionNews = map[string]struct{ broken, mended, action string }{
	v1alpha1.GroupReady:          {"PointsMissed", "PointsResumed", "Checkpoint"},
	v1alpha1.GroupWindowAchieved: {"WindowNotAchieved", "WindowAchieved", "Retain"},
	v1alpha1.GroupReplicating:    {"ReplicationBroken", "ReplicationResumed", "Replicate"},
	v1alpha1.GroupIntact:         {"Damaged", "DamageGone", "Check"},

	v1alpha1.GroupBackingSufficient: {"BackingInsufficient", "BackingSufficient", "Retain"},
}

// newsOf is what a person wants to know of the change from one status of a group
// to the next.
func newsOf(old, now *v1alpha1.ConsistencyGroupStatus) []news {
	var out []news
	for _, kind := range []string{v1alpha1.GroupReady, v1alpha1.GroupWindowAchieved, v1alpha1.GroupReplicating, v1alpha1.GroupIntact, v1alpha1.GroupBackingSufficient} {
		before, after := meta.FindStatusCondition(old.Conditions, kind), meta.FindStatusCondition(now.Conditions, kind)
		if after == nil || before != nil && before.Status == after.Status && before.Reason == after.Reason {
			continue
		}
		name := conditionNews[kind]
		switch {
		case after.Status == metav1.ConditionFalse && (before != nil || after.Reason != reasonNoPoint):
			out = append(out, news{corev1.EventTypeWarning, name.broken, name.action, after.Message, ""})
		case after.Status == metav1.ConditionTrue && before != nil && before.Status == metav1.ConditionFalse && before.Reason != reasonNoMembers && before.Reason != reasonNoPoint:
			out = append(out, news{corev1.EventTypeNormal, name.mended, name.action, orDefault(after.Message, "as it should be again"), ""})
		}
	}
	switch {
	case old.Rewind == nil && now.Rewind != nil:
		out = append(out, news{corev1.EventTypeNormal, "Rewound", "Rewind", fmt.Sprintf("to checkpoint %d of %s; undo or commit it",
			now.Rewind.To.Checkpoint, now.Rewind.To.Time.UTC().Format(timeLayout)), ""})
	case old.Rewind != nil && now.Rewind == nil:
		out = append(out, news{corev1.EventTypeNormal, "RewindClosed", "Rewind", "the rewind was undone or committed", ""})
	}
	switch {
	case old.Role == v1alpha1.RoleReplica && now.Role == v1alpha1.RolePrimary:
		out = append(out, news{corev1.EventTypeNormal, "FailedOver", "Failover", fmt.Sprintf("this site is primary since term %d", now.Term), ""})
	case old.Role == v1alpha1.RolePrimary && now.Role == v1alpha1.RoleReplica:
		out = append(out, news{corev1.EventTypeWarning, "Demoted", "Failover", fmt.Sprintf("another site is primary since term %d", now.Term), ""})
	}
	return out
}

// timeLayout is how events and messages write a moment: to the second, as it may
// be given again.
const timeLayout = "2006-01-02T15:04:05Z"

func orDefault(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// memberNews is what the users of single claims want to know.
func memberNews(old, now []v1alpha1.GroupMember) []news {
	var out []news
	for _, m := range now {
		i := slices.IndexFunc(old, func(o v1alpha1.GroupMember) bool { return o.Volume == m.Volume })
		var before v1alpha1.GroupMember
		if i >= 0 {
			before = old[i]
		}
		if m.TransportFallback != "" && m.TransportFallback != before.TransportFallback {
			out = append(out, news{corev1.EventTypeWarning, "TransportFallback", "Attach",
				fmt.Sprintf("on node %s the device is served over %s, slower than over what the node plugin asks for: %s", m.Node, m.Transport, m.TransportFallback), m.Volume})
		}
		if i < 0 {
			out = append(out, news{corev1.EventTypeNormal, "Journaled", "Create", "the claim's volume " + m.Volume + " is a member of its group", m.Volume})
			continue
		}
		switch {
		case m.Reason != "" && m.Reason != before.Reason:
			out = append(out, news{corev1.EventTypeWarning, m.Reason, "Serve", m.Message, m.Volume})
		case m.Reason == "" && before.Reason == reasonFull:
			out = append(out, news{corev1.EventTypeNormal, "BackingHasRoom", "Serve", "the backing volume has room again", m.Volume})
		case m.Reason == "" && before.Reason != "":
			out = append(out, news{corev1.EventTypeNormal, "Recovered", "Serve", "the engine serves the volume again, on node " + m.Node, m.Volume})
		}
		switch {
		case m.Damaged > 0 && before.Damaged == 0:
			out = append(out, news{corev1.EventTypeWarning, "Damaged", "Check", damageText(&m), m.Volume})
		case m.Damaged == 0 && before.Damaged > 0:
			out = append(out, news{corev1.EventTypeNormal, "DamageGone", "Check", "nothing of the volume is known to be damaged any more", m.Volume})
		}
		if m.Attached && !before.Attached {
			out = append(out, news{corev1.EventTypeNormal, "Attached", "Attach", "on node " + m.Node, m.Volume})
		}
	}
	return out
}

func (k *groupKeeper) claim(ctx context.Context, key types.NamespacedName) (*corev1.PersistentVolumeClaim, error) {
	var claim corev1.PersistentVolumeClaim
	err := k.client.Get(ctx, key, &claim)
	return &claim, err
}
