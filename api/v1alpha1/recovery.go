package v1alpha1

import (
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Recovery takes one group to another moment, or to this cluster, and keeps
// the record of it. It is done once and cannot be changed; make another for
// another action. Deleting one that is under way does not stop it: it is gone when
// it has ended.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,path=recoveries,shortName=recov,categories=lockstep
// +kubebuilder:printcolumn:name="Action",type=string,JSONPath=`.spec.action`
// +kubebuilder:printcolumn:name="Group",type=string,JSONPath=`.spec.group`
// +kubebuilder:printcolumn:name="At",type=string,JSONPath=`.spec.at`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Point",type=string,JSONPath=`.status.point.time`,description="Time of the recovery point that the group was taken to"
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`
// +kubebuilder:printcolumn:name="Before",type=string,JSONPath=`.status.before.time`,priority=1
// +kubebuilder:printcolumn:name="Term",type=integer,JSONPath=`.status.term`,priority=1
// +kubebuilder:printcolumn:name="Completed",type=date,JSONPath=`.status.completionTime`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Recovery struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a Recovery is one action and cannot be changed: make another"
	Spec RecoverySpec `json:"spec"`
	// +optional
	Status RecoveryStatus `json:"status,omitzero"`
}

// RecoveryList is what a list request answers.
//
// +kubebuilder:object:root=true
type RecoveryList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []Recovery `json:"items"`
}

// RecoveryAction is what a Recovery does.
//
// +kubebuilder:validation:Enum=Rewind;Undo;Commit;Failover
type RecoveryAction string

// Actions of a Recovery.
const (
	// ActionRewind takes the group back in place. The way back is kept until
	// it is undone or committed.
	ActionRewind RecoveryAction = "Rewind"
	// ActionUndo takes the group to where it was before the rewind.
	ActionUndo RecoveryAction = "Undo"
	// ActionCommit gives up the way back of the rewind.
	ActionCommit RecoveryAction = "Commit"
	// ActionFailover makes this cluster the group's primary, and volumes and
	// claims for its members. It waits for nothing at the other site.
	ActionFailover RecoveryAction = "Failover"
)

// WorkloadPolicy is what becomes of the workloads that use the group's claims.
//
// +kubebuilder:validation:Enum=Scale;Keep
type WorkloadPolicy string

// What becomes of workloads.
const (
	// WorkloadsScale scales them to 0 and, afterwards, to what they were.
	WorkloadsScale WorkloadPolicy = "Scale"
	// WorkloadsKeep leaves them alone: the recovery waits until no claim of the
	// group is in use any more.
	WorkloadsKeep WorkloadPolicy = "Keep"
)

// RecoverySpec is what is to be done.
//
// +kubebuilder:validation:XValidation:rule="self.action != 'Rewind' || has(self.at)",message="a Rewind needs the moment to go to",fieldPath=".at",reason=FieldValueRequired
// +kubebuilder:validation:XValidation:rule="self.action in ['Rewind', 'Failover'] || !has(self.at)",message="only a Rewind and a Failover have a moment: an Undo goes to where the group was, a Commit goes nowhere",fieldPath=".at",reason=FieldValueForbidden
// +kubebuilder:validation:XValidation:rule="self.action in ['Rewind', 'Undo'] || !has(self.workloads)",message="only a Rewind and an Undo touch workloads",fieldPath=".workloads",reason=FieldValueForbidden
type RecoverySpec struct {
	// What to do.
	Action RecoveryAction `json:"action"`

	// Name of the ConsistencyGroup, in this namespace.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Group string `json:"group"`

	// The moment: an RFC 3339 time (the newest recovery point not after it),
	// the number of a checkpoint, latest, or pin:NAME. Required for a Rewind; a
	// Failover goes to latest without one.
	// +optional
	// +kubebuilder:validation:MaxLength=132
	// +kubebuilder:validation:XValidation:rule="self == 'latest' || self.matches('^[1-9][0-9]{0,17}$') || self.matches('^pin:.+$') || (self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$') && timestamp(self) > timestamp('1970-01-01T00:00:00Z'))",message="must be an RFC 3339 time with a zone such as 2026-11-22T10:41:07Z, the number of a checkpoint, latest, or pin:NAME"
	At string `json:"at,omitempty"`

	// What becomes of the Deployments and StatefulSets that use the group's
	// claims: Scale takes them to 0 and back, Keep waits until somebody else
	// has stopped them. Default Scale.
	// +optional
	Workloads WorkloadPolicy `json:"workloads,omitempty"`
}

// RecoveryPhase is how far a Recovery is. Each can be entered again after a
// crash of the controller.
//
// +kubebuilder:validation:Enum=Pending;Quiescing;Detaching;Rewinding;Fencing;Promoting;Publishing;Resuming;Completed;Failed
type RecoveryPhase string

// Phases: a Rewind and an Undo go through Pending, Quiescing, Detaching,
// Rewinding, Resuming; a Failover through Pending, Fencing, Promoting,
// Publishing; a Commit through Pending. All end in Completed or Failed.
const (
	// PhasePending: waits for the group, or for another operation on it.
	PhasePending RecoveryPhase = "Pending"
	// PhaseQuiescing: workloads are being scaled to 0; it ends when no pod uses
	// the group's claims.
	PhaseQuiescing RecoveryPhase = "Quiescing"
	// PhaseDetaching: waits until no node has anything of a member mounted or
	// published. Members may stay attached.
	PhaseDetaching RecoveryPhase = "Detaching"
	// PhaseRewinding: members fork at the point.
	PhaseRewinding RecoveryPhase = "Rewinding"
	// PhaseFencing: streams of older terms are being ended.
	PhaseFencing RecoveryPhase = "Fencing"
	// PhasePromoting: the term is made durable and members fork at the point.
	PhasePromoting RecoveryPhase = "Promoting"
	// PhasePublishing: volumes and claims are being made for the members.
	PhasePublishing RecoveryPhase = "Publishing"
	// PhaseResuming: workloads are being scaled to what they were.
	PhaseResuming RecoveryPhase = "Resuming"
	// PhaseCompleted is the end of one that was done.
	PhaseCompleted RecoveryPhase = "Completed"
	// PhaseFailed is the end of one that was not; the message says why, and
	// workloads were scaled back.
	PhaseFailed RecoveryPhase = "Failed"
)

// Ended says whether nothing happens any more.
func (p RecoveryPhase) Ended() bool { return p == PhaseCompleted || p == PhaseFailed }

// RecoveryComplete is the condition type of a Recovery: Unknown while it is
// under way, True when it was done, False when it failed.
const RecoveryComplete = "Complete"

// RecoveryStatus is how far a Recovery is.
type RecoveryStatus struct {
	// The metadata.generation that the rest of the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// How far it is.
	// +optional
	Phase RecoveryPhase `json:"phase,omitempty"`
	// When each phase began that was entered, in the order of their first entry;
	// for one that was entered again, the last time. A Rewind without the stop and
	// the start of its pods takes from Detaching to Completed.
	// +optional
	// +listType=map
	// +listMapKey=phase
	Phases []PhaseEntry `json:"phases,omitempty"`
	// What it waits for, or why it failed, in a sentence that says what to do.
	// +optional
	Message string `json:"message,omitempty"`
	// The point that the group is taken to; chosen once and then kept.
	// +optional
	Point *RecoveryPoint `json:"point,omitempty"`
	// Where the group was before; an Undo of a Rewind returns there.
	// +optional
	Before *RecoveryPoint `json:"before,omitempty"`
	// Age of the point when a Failover began: what was lost, at most.
	// +optional
	RPO Duration `json:"rpo,omitempty"`
	// The group's term after a Failover.
	// +optional
	Term int64 `json:"term,omitempty"`
	// What was scaled to 0, with its size before.
	// +optional
	// +listType=atomic
	Workloads []ScaledWorkload `json:"workloads,omitempty"`
	// What a Failover made for the group's members.
	// +optional
	// +listType=map
	// +listMapKey=volume
	Claims []RecoveredClaim `json:"claims,omitempty"`
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`
	// +optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`
	// Complete.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// PhaseEntry is when a phase began.
type PhaseEntry struct {
	Phase RecoveryPhase    `json:"phase"`
	Time  metav1.MicroTime `json:"time"`
}

// Entered is when a phase began; zero for one that was not entered.
func (s *RecoveryStatus) Entered(phase RecoveryPhase) time.Time {
	for _, entry := range s.Phases {
		if entry.Phase == phase {
			return entry.Time.Time
		}
	}
	return time.Time{}
}

// ScaledWorkload is an object that was scaled to 0.
type ScaledWorkload struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	// Its size before.
	// +kubebuilder:validation:Minimum=0
	Replicas int32 `json:"replicas"`
	// Whether it was scaled back.
	// +optional
	Restored bool `json:"restored"`
}

// RecoveredClaim is a claim that a Failover made, or found.
type RecoveredClaim struct {
	// The volume's id, 32 hexadecimal digits.
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{32}$`
	Volume string `json:"volume"`
	// Name of the claim, in this namespace.
	Claim string `json:"claim"`
	// Name of the PersistentVolume that it is bound to.
	// +optional
	PersistentVolume string `json:"persistentVolume,omitempty"`
	// +optional
	Size *resource.Quantity `json:"size,omitempty"`
}
