package operator

import (
	"strings"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// fed makes a view that of a replica whose primary has just announced it, and
// which has everything; the result may be changed.
func fed(v *view) *groups.Receiving {
	st := &v.summary.State
	st.Role, st.Source, v.summary.Started, v.summary.Sending = group.RoleReplica, "there", false, nil
	newest := *v.summary.Newest
	newest.ValidUntil = v.now.Add(-time.Second)
	v.summary.Newest = &newest
	v.summary.Receiving = &groups.Receiving{Heard: v.now.Add(-time.Second), Begun: v.now.Add(-time.Hour),
		Progress: map[journal.VolumeID]replication.Progress{id(1): {Connected: true}}}
	return v.summary.Receiving
}

// A replica says how it stands, since when, and how far it is behind.
func TestReplicaTellsHowItIsFed(t *testing.T) {
	tests := []struct {
		name    string
		change  func(v *view, r *groups.Receiving)
		state   v1alpha1.ReplicationState
		since   time.Duration // before now; -1: since now
		lag     v1alpha1.Lag
		copied  string
		message string
	}{
		{"in sync", func(*view, *groups.Receiving) {}, v1alpha1.ReplicationSynced, -1, v1alpha1.Lag{Time: "1s"}, "", ""},
		{"behind", func(_ *view, r *groups.Receiving) {
			r.Progress[id(1)] = replication.Progress{Connected: true, LagRecords: 3, LagBytes: 12288}
		}, v1alpha1.ReplicationStreaming, -1, v1alpha1.Lag{Records: 3, Bytes: 12288, Time: "1s"}, "", ""},
		{"filled", func(_ *view, r *groups.Receiving) {
			r.Progress[id(1)] = replication.Progress{Connected: true, ImageBytes: gib, ImageSizeBytes: 4 * gib}
		}, v1alpha1.ReplicationCopying, -1, v1alpha1.Lag{Time: "1s"}, "1Gi of 4Gi", ""},
		{"silence", func(v *view, r *groups.Receiving) { r.Heard = v.now.Add(-time.Minute) }, v1alpha1.ReplicationDisconnected, time.Minute,
			v1alpha1.Lag{Time: "1s"}, "", "site there was last heard of at 2026-11-22T10:59:00Z"},
		{"silence since the start", func(_ *view, r *groups.Receiving) { r.Heard, r.Progress = time.Time{}, nil }, v1alpha1.ReplicationDisconnected, time.Hour,
			v1alpha1.Lag{Time: "1s"}, "", "has not been heard of since this controller was started"},
		{"just started", func(v *view, r *groups.Receiving) { r.Heard, r.Progress, r.Begun = time.Time{}, nil, v.now }, v1alpha1.ReplicationStreaming, -1,
			v1alpha1.Lag{Time: "1s"}, "", ""},
		{"a stream is down", func(_ *view, r *groups.Receiving) { r.Progress[id(1)] = replication.Progress{LagRecords: 9} }, v1alpha1.ReplicationDisconnected, -1,
			v1alpha1.Lag{Records: 9, Time: "1s"}, "", "does not send all of its members"},
		{"primary at rest", func(v *view, r *groups.Receiving) {
			r.Heard, r.Resting = v.now.Add(-time.Hour), true
			r.Progress[id(1)] = replication.Progress{}
		}, v1alpha1.ReplicationSynced, -1, v1alpha1.Lag{Time: "1s"}, "", "no volume of the group is in use at site there"},
		{"primary of an older version", func(_ *view, r *groups.Receiving) { r.Progress = nil }, v1alpha1.ReplicationStreaming, -1, v1alpha1.Lag{Time: "1s"}, "", ""},
		{"demoted", func(v *view, _ *groups.Receiving) { v.summary.State.Source = "" }, v1alpha1.ReplicationDisconnected, -1, v1alpha1.Lag{Time: "1s"}, "", "another site is primary"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := sound()
			tt.change(v, fed(v))
			got := statusOf(v, &v1alpha1.ConsistencyGroupStatus{}).Replication
			if got.State != tt.state || *got.Lag != tt.lag || !strings.Contains(got.Message, tt.message) || tt.message == "" && got.Message != "" {
				t.Errorf("%+v, lag %+v", got, got.Lag)
			}
			since := v.now
			if tt.since > 0 {
				since = since.Add(-tt.since)
			}
			if !got.Since.Time.Equal(since) {
				t.Errorf("since %s, want %s", got.Since, since)
			}
			copied := ""
			if c := got.Copied; c != nil {
				copied = c.Done.String() + " of " + c.Of.String()
			}
			if copied != tt.copied {
				t.Errorf("copied %q, want %q", copied, tt.copied)
			}
		})
	}
}

// A state that lasts keeps its beginning, whatever comes and goes with writes.
func TestReplicationStateKeepsItsBeginning(t *testing.T) {
	v := sound()
	first := statusOf(v, &v1alpha1.ConsistencyGroupStatus{})
	v.now = v.now.Add(time.Minute)
	v.summary.Sending.Volumes[0].LagRecords = 1
	second := statusOf(v, &first)
	if second.Replication.State != v1alpha1.ReplicationStreaming || !second.Replication.Since.Equal(first.Replication.Since) {
		t.Errorf("%+v after %+v", second.Replication, first.Replication)
	}
	v.now = v.now.Add(time.Minute)
	v.summary.Sending.Volumes[0].Connected = false
	third := statusOf(v, &second)
	if third.Replication.State != v1alpha1.ReplicationDisconnected || !third.Replication.Since.Time.Equal(v.now) {
		t.Errorf("%+v after %+v", third.Replication, second.Replication)
	}
}
