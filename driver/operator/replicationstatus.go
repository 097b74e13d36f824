package operator

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// lagsOf is how far each member's replica is behind, at either site.
func lagsOf(v *view) map[journal.VolumeID]v1alpha1.Lag {
	lags := map[journal.VolumeID]v1alpha1.Lag{}
	if m := v.summary.Sending; m != nil {
		for _, v := range m.Volumes {
			lags[v.Volume] = v1alpha1.Lag{Records: v.LagRecords, Bytes: v.LagBytes, Time: v1alpha1.DurationOf(v.LagTime.Truncate(time.Millisecond))}
		}
	}
	if r := v.summary.Receiving; r != nil {
		for id, p := range r.Progress {
			lags[id] = v1alpha1.Lag{Records: p.LagRecords, Bytes: p.LagBytes}
		}
	}
	return lags
}

// replicationOf tells how it stands with the peer; nil without one. A state that
// lasts keeps its beginning from old.
func replicationOf(v *view, old *v1alpha1.GroupReplication) *v1alpha1.GroupReplication {
	st := v.summary.State
	var out *v1alpha1.GroupReplication
	switch {
	case st.Role == group.RoleReplica:
		out = receivingState(v)
	case st.Settings.ReplicateTo == "":
		return nil
	default:
		out = sendingState(v)
	}
	if out.Since == nil {
		since := metav1.NewTime(v.now.UTC().Truncate(time.Second))
		out.Since = &since
		if old != nil && old.Since != nil && settledState(old.State) == settledState(out.State) {
			out.Since = old.Since.DeepCopy()
		}
	}
	return out
}

// settledState is a state without what comes and goes with every write.
func settledState(s v1alpha1.ReplicationState) v1alpha1.ReplicationState {
	if s == v1alpha1.ReplicationStreaming {
		return v1alpha1.ReplicationSynced
	}
	return s
}

// sendingState is a primary's view of its peer.
func sendingState(v *view) *v1alpha1.GroupReplication {
	out := &v1alpha1.GroupReplication{Peer: v.summary.State.Settings.ReplicateTo, State: v1alpha1.ReplicationDisconnected}
	m := v.summary.Sending
	switch {
	case v.peerless != "": // also of a group at rest, which may have something that was never sent
		out.Message = v.peerless
		return out
	case m == nil && v.summary.Started:
		out.Message = fmt.Sprintf("Site %s is not a peer yet", out.Peer)
		return out
	case m == nil:
		out.State, out.Message = v1alpha1.ReplicationSynced, "no volume of the group is in use"
		return out
	}
	progress := map[journal.VolumeID]replication.Progress{}
	problem := m.LastError
	var age time.Duration
	for _, v := range m.Volumes {
		progress[v.Volume] = groups.ProgressOf(v)
		age = max(age, v.LagTime)
		if problem == nil && !v.Connected {
			problem = v.LastError
		}
	}
	connected := addProgress(out, progress)
	out.Lag.Time = v1alpha1.DurationOf(age.Truncate(time.Millisecond))
	if !connected || m.LastError != nil {
		out.State, out.Message = v1alpha1.ReplicationDisconnected, "the peer's gateway does not answer"
		if problem != nil {
			out.Message = problem.Error()
		}
	}
	return out
}

// addProgress sets the state, lag and progress of members' ways to a replica. It
// reports whether all of them are connected.
func addProgress(out *v1alpha1.GroupReplication, members map[journal.VolumeID]replication.Progress) (connected bool) {
	connected = true
	var done, of int64
	out.Lag = &v1alpha1.Lag{}
	for _, p := range members {
		connected = connected && p.Connected
		out.Lag.Records, out.Lag.Bytes = out.Lag.Records+p.LagRecords, out.Lag.Bytes+p.LagBytes
		done, of = done+p.ImageBytes, of+p.ImageSizeBytes
	}
	switch {
	case of > 0:
		out.State, out.Copied = v1alpha1.ReplicationCopying, &v1alpha1.CopyProgress{Done: *quantity(done), Of: *quantity(of)}
	case out.Lag.Records > 0:
		out.State = v1alpha1.ReplicationStreaming
	default:
		out.State = v1alpha1.ReplicationSynced
	}
	return connected
}

// receivingState is a replica's view of its primary.
func receivingState(v *view) *v1alpha1.GroupReplication {
	st, r := v.summary.State, v.summary.Receiving
	out := &v1alpha1.GroupReplication{Peer: st.Source, State: v1alpha1.ReplicationDisconnected}
	since := func(t time.Time) *metav1.Time {
		s := metav1.NewTime(t.UTC().Truncate(time.Second))
		return &s
	}
	if !st.Orphaned.IsZero() {
		out.State, out.Since = v1alpha1.ReplicationOrphaned, since(st.Orphaned)
		out.Message = fmt.Sprintf("the group has ended at site %s: fail over to what is here, or remove it with `kubectl lockstep orphans --remove`", st.Source)
		return out
	}
	if r == nil {
		out.Message = "the replica has not been started"
		return out
	}
	connected := addProgress(out, r.Progress)
	if newest := v.summary.Newest; newest != nil {
		out.Lag.Time = v1alpha1.DurationOf(max(0, v.now.Sub(newest.ValidUntil)).Truncate(time.Millisecond))
	}
	switch {
	case st.Source == "":
		out.State, out.Message = v1alpha1.ReplicationDisconnected, "another site is primary, and has not announced itself yet"
	case r.Resting:
		out.State, out.Message = v1alpha1.ReplicationSynced, fmt.Sprintf("no volume of the group is in use at site %s", st.Source)
	case !r.SilentSince(v.now).IsZero():
		out.State, out.Since = v1alpha1.ReplicationDisconnected, since(r.SilentSince(v.now))
		out.Message = fmt.Sprintf("site %s was last heard of at %s", st.Source, r.Heard.UTC().Format(timeLayout))
		if r.Heard.IsZero() {
			out.Message = fmt.Sprintf("site %s has not been heard of since this controller was started", st.Source)
		}
	case !connected && out.State != v1alpha1.ReplicationCopying:
		out.State, out.Message = v1alpha1.ReplicationDisconnected, fmt.Sprintf("site %s announces the group, and does not send all of its members", st.Source)
	case len(r.Progress) == 0:
		out.State = v1alpha1.ReplicationStreaming // its primary does not tell more
	}
	return out
}
