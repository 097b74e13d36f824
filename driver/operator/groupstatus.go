package operator

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// Reasons of conditions.
const (
	reasonTaking       = "TakingPoints"
	reasonIdle         = "NotInUse"
	reasonFed          = "FedByPeer"
	reasonNoMembers    = "NoMembers"
	reasonEngine       = "EngineNotRunning"
	reasonTooSmall     = "BackingTooSmall"
	reasonFull         = "BackingFull"
	reasonMissed       = "CheckpointMissed"
	reasonSilent       = "MembersSilent"
	reasonNoPoint      = "NoPointYet"
	reasonPointGivenUp = "PointGivenUp"
	reasonAhead        = "PointsAhead"
	reasonAchieved     = "Achieved"
	reasonShort        = "HistoryTooShort"
	reasonUnknown      = "Unknown"
	reasonWhole        = "NoDamageKnown"
	reasonDamaged      = "Damaged"
	reasonFits         = "NoShortageKnown"
	reasonShortBacking = "SmallerThanBudget"
	reasonConnected    = "Connected"
	reasonDisconnected = "Disconnected"
	reasonSplit        = "SplitBrain"
	reasonOtherGroup   = "NameInUse"
	reasonOrphaned     = "Orphaned"
	reasonAccepted     = "Accepted"
	reasonRefused      = "Refused"
)

// view is what a group's status is made of.
type view struct {
	summary groups.Summary
	// silent is why the members do not tell of the group's points, which summary is
	// then without.
	silent error
	// peerless is why there is nowhere to send to; empty: there is, or need not be.
	peerless string
	volumes  []fleet.Volume // its members
	now      time.Time
	// generation of the resource whose settings were applied, and why they
	// were refused.
	generation int64
	refused    error
}

// statusOf describes a group. Conditions keep the time of their last change from
// old.
func statusOf(v *view, old *v1alpha1.ConsistencyGroupStatus) v1alpha1.ConsistencyGroupStatus {
	st := v.summary.State
	out := v1alpha1.ConsistencyGroupStatus{
		ObservedGeneration: v.generation, Role: roleOf(st.Role), Term: int64(st.Term), Settings: settingsStatus(st.Settings),
		MemberCount: int32(len(v.volumes)), Conditions: slices.Clone(old.Conditions),
		NewestPoint: pointOf(v.summary.Newest), OldestPoint: pointOf(v.summary.Oldest),
	}
	if v.summary.Oldest != nil {
		out.AchievedWindow = v1alpha1.DurationOf(v.summary.AchievedWindow(v.now).Truncate(time.Second))
	} else if v.silent != nil || v.summary.Newest == nil && !isAwake(v) {
		// Nobody who could tell is awake, or answers: what was said last stays true
		// but for its age.
		out.NewestPoint, out.OldestPoint, out.AchievedWindow = old.NewestPoint, old.OldestPoint, old.AchievedWindow
	}
	lags := lagsOf(v)
	for i := range v.volumes {
		out.Members = append(out.Members, memberOf(&v.volumes[i], lags, old.Members))
	}
	if st.Rewind != nil {
		out.Rewind = &v1alpha1.OpenRewind{Started: metav1.NewTime(st.Rewind.Started), To: *pointOf(&st.Rewind.To), From: *pointOf(&st.Rewind.From)}
	}
	out.History = historyOf(v, old.History)
	out.Replication = replicationOf(v, old.Replication)
	setConditions(&out, v)
	return out
}

func roleOf(r group.Role) v1alpha1.GroupRole {
	if r == group.RoleReplica {
		return v1alpha1.RoleReplica
	}
	return v1alpha1.RolePrimary
}

func settingsStatus(s group.Settings) *v1alpha1.GroupSettings {
	out := &v1alpha1.GroupSettings{CheckpointInterval: v1alpha1.DurationOf(s.CheckpointInterval), BarrierTimeout: v1alpha1.DurationOf(s.BarrierTimeout),
		Window: v1alpha1.DurationOf(s.Window), History: s.History, ReplicateTo: s.ReplicateTo}
	if s.JournalBytes > 0 {
		out.JournalSize = quantity(s.JournalBytes)
	}
	return out
}

func quantity(bytes int64) *resource.Quantity { return resource.NewQuantity(bytes, resource.BinarySI) }

func pointOf(p *group.Point) *v1alpha1.RecoveryPoint {
	if p == nil {
		return nil
	}
	out := &v1alpha1.RecoveryPoint{Checkpoint: int64(p.Checkpoint), Time: microTime(p.Time), Pins: slices.Clone(p.Pins)}
	if until := microTime(p.ValidUntil); !p.ValidUntil.IsZero() {
		out.ValidUntil = &until
	}
	return out
}

// microTime has the precision that the API server keeps.
func microTime(t time.Time) metav1.MicroTime {
	return metav1.NewMicroTime(t.UTC().Truncate(time.Microsecond))
}

// isAwake reports whether any engine of a group answers.
func isAwake(v *view) bool {
	return slices.ContainsFunc(v.volumes, func(v fleet.Volume) bool { return v.Connected })
}

func memberOf(v *fleet.Volume, lags map[journal.VolumeID]v1alpha1.Lag, old []v1alpha1.GroupMember) v1alpha1.GroupMember {
	out := v1alpha1.GroupMember{Volume: v.ID.String(), Size: quantity(v.SizeBytes), Node: v.Node, Attached: v.State.Device != "" && v.Attach != nil}
	if key, ok := claimOf(v); ok {
		out.Claim = key.Name
	}
	if out.Attached {
		out.Transport, out.TransportFallback = v.State.Transport, v.State.TransportFallback
	}
	if s := v.State.Store; s != nil {
		out.Journal = quantity(s.JournalBytes)
	}
	out.ShortBy = shortBy(v, old)
	if lag, ok := lags[v.ID]; ok {
		out.Lag = &lag
	}
	out.Damaged, out.Damage = damageOf(v, old)
	switch {
	case v.Connected && v.State.Reason != "":
		out.Reason, out.Message = string(v.State.Reason), v.State.Error
	case !v.Connected && v.Err != nil:
		out.Reason, out.Message = reasonEngine, v.Err.Error()
	case v.Trouble != nil:
		out.Reason, out.Message = reasonTooSmall, v.Trouble.Error()
	case v.Connected && v.State.Store != nil && v.State.Store.Space.IsShort():
		out.Reason, out.Message = reasonFull, v.State.Store.Space.String()
	}
	return out
}

// damageOf is what is known to be damaged of a volume. While no engine tells, it is
// what was known last.
func damageOf(v *fleet.Volume, old []v1alpha1.GroupMember) (places int32, text string) {
	s := v.State.Store
	if !v.Connected || s == nil {
		i := slices.IndexFunc(old, func(m v1alpha1.GroupMember) bool { return m.Volume == v.ID.String() })
		if i < 0 {
			return 0, ""
		}
		return old[i].Damaged, old[i].Damage
	}
	if s.Damaged == 0 {
		return 0, ""
	}
	text = s.Damage
	if s.Unrepairable > 0 {
		text += fmt.Sprintf("; the peer could not help with %d places, the engine's log says why", s.Unrepairable)
	}
	return int32(s.Damaged), text
}

// intact tells whether anything is known to be damaged.
func intact(out *v1alpha1.ConsistencyGroupStatus) (metav1.ConditionStatus, string, string) {
	var damaged []string
	for _, m := range out.Members {
		if m.Damaged > 0 {
			damaged = append(damaged, fmt.Sprintf("%s: %s", orID(m.Claim, m.Volume), damageText(&m)))
		}
	}
	if len(damaged) > 0 {
		return metav1.ConditionFalse, reasonDamaged, strings.Join(damaged, "; ")
	}
	return metav1.ConditionTrue, reasonWhole, ""
}

func damageText(m *v1alpha1.GroupMember) string {
	return fmt.Sprintf("%d places are damaged, reads of them fail; the first: %s", m.Damaged, m.Damage)
}

// setConditions decides what a person is to know first.
func setConditions(out *v1alpha1.ConsistencyGroupStatus, v *view) {
	set := func(kind string, status metav1.ConditionStatus, reason, message string) {
		setCondition(&out.Conditions, metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message,
			ObservedGeneration: v.generation, LastTransitionTime: metav1.NewTime(v.now)})
	}
	status, reason, message := ready(out, v)
	set(v1alpha1.GroupReady, status, reason, message)
	status, reason, message = window(v)
	set(v1alpha1.GroupWindowAchieved, status, reason, message)
	status, reason, message = intact(out)
	set(v1alpha1.GroupIntact, status, reason, message)
	status, reason, message = sufficient(out)
	set(v1alpha1.GroupBackingSufficient, status, reason, message)
	if r := out.Replication; r == nil {
		meta.RemoveStatusCondition(&out.Conditions, v1alpha1.GroupReplicating)
	} else if r.State == v1alpha1.ReplicationOrphaned {
		set(v1alpha1.GroupReplicating, metav1.ConditionFalse, reasonOrphaned, r.Message)
	} else if r.State == v1alpha1.ReplicationDisconnected {
		reason := reasonDisconnected
		if m := v.summary.Sending; m != nil && errors.Is(m.LastError, replication.ErrSplitBrain) {
			reason = reasonSplit
		} else if m != nil && errors.Is(m.LastError, replication.ErrOtherGroup) {
			reason = reasonOtherGroup
		}
		set(v1alpha1.GroupReplicating, metav1.ConditionFalse, reason, r.Message)
	} else {
		set(v1alpha1.GroupReplicating, metav1.ConditionTrue, reasonConnected, r.Message)
	}
	if v.refused != nil {
		set(v1alpha1.GroupSettingsAccepted, metav1.ConditionFalse, reasonRefused, v.refused.Error())
	} else {
		set(v1alpha1.GroupSettingsAccepted, metav1.ConditionTrue, reasonAccepted, "")
	}
}

func ready(out *v1alpha1.ConsistencyGroupStatus, v *view) (metav1.ConditionStatus, string, string) {
	var broken []string
	for _, m := range out.Members {
		if m.Reason != "" && m.Reason != reasonFull { // it is served, at the cost of its window
			broken = append(broken, fmt.Sprintf("%s: %s: %s", orID(m.Claim, m.Volume), m.Reason, m.Message))
		}
	}
	switch {
	case len(broken) > 0:
		return metav1.ConditionFalse, reasonEngine, strings.Join(broken, "; ")
	case v.silent != nil:
		return metav1.ConditionFalse, reasonSilent, "members do not tell of their recovery points: " + v.silent.Error()
	case v.summary.State.Role == group.RoleReplica && v.summary.Newest == nil && pointGivenUpBy(v) != "":
		return metav1.ConditionFalse, reasonPointGivenUp, "the newest recovery point that all members had was given up for want of room, by " + pointGivenUpBy(v) +
			": there is one again when all members have been fed as far; give the backing volume more room"
	case v.summary.PointsAhead(v.now) != "":
		return metav1.ConditionFalse, reasonAhead, v.summary.PointsAhead(v.now)
	case v.summary.State.Role == group.RoleReplica:
		return metav1.ConditionTrue, reasonFed, "site " + v.summary.State.Source + " is primary"
	case !v.summary.Started:
		return metav1.ConditionTrue, reasonIdle, "no volume of the group is in use: its newest point stays true"
	case v.summary.Stats.LastError != nil:
		return metav1.ConditionFalse, reasonMissed, v.summary.Stats.LastError.Error()
	case v.summary.Newest == nil:
		return metav1.ConditionFalse, reasonNoPoint, "no checkpoint has been taken yet"
	}
	return metav1.ConditionTrue, reasonTaking, ""
}

// pointGivenUpBy are the members that have given up, for want of room, what they kept of
// the group's newest point; empty: none has.
func pointGivenUpBy(v *view) string {
	var by []string
	for _, m := range v.volumes {
		if s := m.State.Store; s != nil && s.Space.PointsGivenUp > 0 {
			by = append(by, "volume "+m.ID.String())
		}
	}
	return strings.Join(by, ", ")
}

func orID(claim, volume string) string {
	if claim != "" {
		return "claim " + claim
	}
	return "volume " + volume
}

// window tells whether history goes back far enough.
func window(v *view) (metav1.ConditionStatus, string, string) {
	switch {
	case v.summary.Oldest == nil:
		return metav1.ConditionUnknown, reasonUnknown, "there is no point, or no engine that can tell of one"
	case !v.summary.IsWindowShort(v.now):
		return metav1.ConditionTrue, reasonAchieved, ""
	}
	return metav1.ConditionFalse, reasonShort, fmt.Sprintf(
		"history reaches back %s, wanted are %s: %s",
		v1alpha1.DurationOf(v.summary.AchievedWindow(v.now).Truncate(time.Second)), v1alpha1.DurationOf(v.summary.State.Settings.Window), v.summary.WindowAdvice())
}

// isUrgent reports whether a person waits for what has changed between two
// statuses; what only advances can wait.
func isUrgent(old, now *v1alpha1.ConsistencyGroupStatus) bool {
	type settled struct {
		role       v1alpha1.GroupRole
		term       int64
		generation int64
		state      v1alpha1.ReplicationState
		rewind     bool
	}
	of := func(s *v1alpha1.ConsistencyGroupStatus) settled {
		out := settled{role: s.Role, term: s.Term, generation: s.ObservedGeneration, rewind: s.Rewind != nil}
		if s.Replication != nil {
			out.state = s.Replication.State
			out.state = settledState(s.Replication.State)
		}
		return out
	}
	return of(old) != of(now) || !maps.Equal(standings(old.Conditions), standings(now.Conditions)) ||
		!slices.Equal(places(old.Members), places(now.Members)) || (old.NewestPoint == nil) != (now.NewestPoint == nil)
}

func standings(conditions []metav1.Condition) map[string]string {
	out := map[string]string{}
	for _, c := range conditions {
		out[c.Type] = string(c.Status) + " " + c.Reason
	}
	return out
}

func places(members []v1alpha1.GroupMember) []string {
	var out []string
	for _, m := range members {
		size := ""
		if m.Size != nil {
			size = m.Size.String()
		}
		out = append(out, fmt.Sprint(m.Volume, m.Claim, m.Node, m.Attached, m.Transport, m.TransportFallback, m.Reason, m.Damaged > 0, size))
	}
	return out
}
