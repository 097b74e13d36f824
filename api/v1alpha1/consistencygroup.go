package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ConsistencyGroup is a set of volumes that share checkpoints: at every
// recovery point of the group, what was written after an acknowledged write on
// any of them is there only with that write.
//
// It appears by itself with the first claim of the group (annotation
// lockstep.dev/group on the claim, its workload or its namespace). Make it
// beforehand to choose its settings.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,shortName=cg,categories=lockstep
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether recovery points are being taken"
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Role",type=string,JSONPath=`.status.role`,description="Primary: volumes are served here. Replica: they are fed by the peer"
// +kubebuilder:printcolumn:name="Members",type=integer,JSONPath=`.status.memberCount`
// +kubebuilder:printcolumn:name="Newest",type=date,JSONPath=`.status.newestPoint.validUntil`,description="Age of the newest recovery point; written every 10 s at most"
// +kubebuilder:printcolumn:name="Window",type=string,JSONPath=`.status.achievedWindow`,description="How far back the group can be opened"
// +kubebuilder:printcolumn:name="Peer",type=string,JSONPath=`.status.replication.peer`
// +kubebuilder:printcolumn:name="Replication",type=string,JSONPath=`.status.replication.state`
// +kubebuilder:printcolumn:name="Lag",type=string,JSONPath=`.status.replication.lag.time`
// +kubebuilder:printcolumn:name="Term",type=integer,JSONPath=`.status.term`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ConsistencyGroup struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Settings of the group. What is not set comes from the storage class of
	// the volume that began the group, and else is the default named here.
	// +optional
	Spec ConsistencyGroupSpec `json:"spec,omitzero"`
	// What the controller last saw. It is written after every change of state
	// and every 10 s at most for what only advances; `kubectl lockstep group
	// describe` shows the present.
	// +optional
	Status ConsistencyGroupStatus `json:"status,omitzero"`
}

// ConsistencyGroupList is what a list request answers.
//
// +kubebuilder:object:root=true
type ConsistencyGroupList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []ConsistencyGroup `json:"items"`
}

// ConsistencyGroupSpec are the settings of a group.
//
// +kubebuilder:validation:XValidation:rule="!has(self.checkpointInterval) || !has(self.window) || self.window.endsWith('d') || duration(self.window) >= duration(self.checkpointInterval)",message="window must not be shorter than checkpointInterval",fieldPath=".window"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.replicateTo) || !has(self.replicateTo) || self.replicateTo == oldSelf.replicateTo",message="replicateTo cannot be changed: remove it, wait until the group no longer replicates, then set it anew",fieldPath=".replicateTo"
type ConsistencyGroupSpec struct {
	// Time between automatic checkpoints, and so the age that the newest
	// recovery point may have: 100ms to 1h. Default 1s.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!self.endsWith('d') && duration(self) >= duration('100ms') && duration(self) <= duration('1h')",message="must be 100ms to 1h"
	CheckpointInterval Duration `json:"checkpointInterval,omitempty"`

	// How long writes may wait for a checkpoint before it is given up: 1ms to
	// 10s. Default 50ms.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!self.endsWith('d') && duration(self) >= duration('1ms') && duration(self) <= duration('10s')",message="must be 1ms to 10s"
	BarrierTimeout Duration `json:"barrierTimeout,omitempty"`

	// How far back history is wanted: 1m to 3650d. Without history every
	// checkpoint is kept for that long. Default: the last age of history. It is
	// shorter while the journal or the backing volume has no room for it, see
	// status.achievedWindow.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self.endsWith('d') ? self.matches('^0*([1-9][0-9]{0,2}|[12][0-9]{3}|3[0-5][0-9]{2}|36[0-4][0-9]|3650)d$') : duration(self) >= duration('1m') && duration(self) <= duration('87600h')",message="must be 1m to 3650d"
	Window Duration `json:"window,omitempty"`

	// Which checkpoints are kept at which age: INTERVAL:AGE for each tier, for
	// example 1s:1h,1m:24h,1h:7d, which keeps every checkpoint for an hour, then
	// one a minute up to a day, then one an hour up to a week. Intervals and ages
	// rise, each interval is a multiple of the one before, and the first is not
	// longer than checkpointInterval. The last age is the window. Default, where
	// the window is not given either: 1s:1h,1m:24h,1h:7d.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[0-9a-z.]+:[0-9a-z.]+(, *[0-9a-z.]+:[0-9a-z.]+)*$`
	History string `json:"history,omitempty"`

	// Journal budget of each member, for example 10Gi: 64Mi to 1Pi, or 0 for a
	// default from the size of the volume. Default 0.
	// +optional
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('0')) == 0 || (quantity(string(self)).compareTo(quantity('64Mi')) >= 0 && quantity(string(self)).compareTo(quantity('1Pi')) <= 0)",message="must be 0, or 64Mi to 1Pi"
	JournalSize *resource.Quantity `json:"journalSize,omitempty"`

	// Name of the Site that this group is replicated to. Default: none. It can
	// be added and removed, and not be changed to another in one step.
	// +optional
	ReplicateTo SiteName `json:"replicateTo,omitempty"`
}

// SiteName is the name of a site.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:Pattern=`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`
type SiteName string

// GroupRole is what this cluster is for a group.
//
// +kubebuilder:validation:Enum=Primary;Replica
type GroupRole string

// Roles of a cluster for a group.
const (
	// RolePrimary serves the group's volumes.
	RolePrimary GroupRole = "Primary"
	// RoleReplica is fed by the peer and serves nothing.
	RoleReplica GroupRole = "Replica"
)

// Condition types of a ConsistencyGroup.
const (
	// GroupReady: all members are served and recovery points are being taken.
	GroupReady = "Ready"
	// GroupReplicating: the peer is being fed, or feeds this site. Absent
	// without a peer.
	GroupReplicating = "Replicating"
	// GroupWindowAchieved: history reaches back as far as the settings want, or
	// as far as the group exists.
	GroupWindowAchieved = "WindowAchieved"
	// GroupIntact: nothing of the members' stores is known to be damaged.
	GroupIntact = "Intact"
	// GroupBackingSufficient: the backing volumes, or the quotas that they show as
	// their size, are as large as what the members and their journals may come to.
	GroupBackingSufficient = "BackingSufficient"
	// GroupSettingsAccepted: the spec's settings are in force, or will be when
	// the group has a member.
	GroupSettingsAccepted = "SettingsAccepted"
)

// ConsistencyGroupStatus is what the controller last saw of a group.
type ConsistencyGroupStatus struct {
	// The metadata.generation whose settings are in force.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// What this cluster is for the group.
	// +optional
	Role GroupRole `json:"role,omitempty"`
	// Raised by every failover; a site that meets a higher one stops being
	// primary.
	// +optional
	Term int64 `json:"term,omitempty"`
	// The settings in force, from spec, storage class and defaults.
	// +optional
	Settings *GroupSettings `json:"settings,omitempty"`
	// How many members there are.
	// +optional
	MemberCount int32 `json:"memberCount,omitempty"`
	// The volumes of the group.
	// +optional
	// +listType=map
	// +listMapKey=volume
	Members []GroupMember `json:"members,omitempty"`
	// The newest moment that the group can be opened at.
	// +optional
	NewestPoint *RecoveryPoint `json:"newestPoint,omitempty"`
	// The oldest one, pinned points apart.
	// +optional
	OldestPoint *RecoveryPoint `json:"oldestPoint,omitempty"`
	// How far back the group can be opened now.
	// +optional
	AchievedWindow Duration `json:"achievedWindow,omitempty"`
	// The recovery points by the tier of the history that they are in, the youngest
	// first: one row for each tier of settings.history, or one for the window.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	History []HistoryTier `json:"history,omitempty"`
	// How it stands with the peer; absent without one.
	// +optional
	Replication *GroupReplication `json:"replication,omitempty"`
	// The rewind that can still be undone; absent when there is none.
	// +optional
	Rewind *OpenRewind `json:"rewind,omitempty"`
	// Ready, Replicating, WindowAchieved, Intact, BackingSufficient,
	// SettingsAccepted.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// GroupSettings are the settings by which a group runs.
type GroupSettings struct {
	CheckpointInterval Duration `json:"checkpointInterval"`
	BarrierTimeout     Duration `json:"barrierTimeout"`
	Window             Duration `json:"window"`
	// Absent: every checkpoint is kept for the window.
	// +optional
	History string `json:"history,omitempty"`
	// Absent: a default from the size of each volume.
	// +optional
	JournalSize *resource.Quantity `json:"journalSize,omitempty"`
	// Absent: the group is not replicated.
	// +optional
	ReplicateTo string `json:"replicateTo,omitempty"`
}

// GroupMember is one volume of a group.
type GroupMember struct {
	// The volume's id, 32 hexadecimal digits: its volumeHandle.
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{32}$`
	Volume string `json:"volume"`
	// Name of the claim; on a replica, at the primary.
	// +optional
	Claim string `json:"claim,omitempty"`
	// Size of the volume.
	// +optional
	Size *resource.Quantity `json:"size,omitempty"`
	// The node on which its engine runs; empty while none does.
	// +optional
	Node string `json:"node,omitempty"`
	// Whether the node has its block device.
	// +optional
	Attached bool `json:"attached"`
	// How the device's requests come from the kernel: dev-fuse or io-uring; empty
	// while it is not attached.
	// +optional
	Transport string `json:"transport,omitempty"`
	// Why that is not what the node plugin was asked for.
	// +optional
	TransportFallback string `json:"transportFallback,omitempty"`
	// What the journal holds now, on disk.
	// +optional
	Journal *resource.Quantity `json:"journal,omitempty"`
	// How much smaller its backing volumes are, or the quotas that they show as their
	// size, than what the volume and its journal's budget may come to; absent: they
	// are not.
	// +optional
	ShortBy *resource.Quantity `json:"shortBy,omitempty"`
	// How far the replica is behind; on a replica without a time.
	// +optional
	Lag *Lag `json:"lag,omitempty"`
	// A word for what is wrong, such as Damaged, Full or NotOpen; empty while
	// the volume is healthy.
	// +optional
	Reason string `json:"reason,omitempty"`
	// The error in full.
	// +optional
	Message string `json:"message,omitempty"`
	// Places of its store that are known to be damaged: reads of them fail, and
	// everything else is served.
	// +optional
	Damaged int32 `json:"damaged,omitempty"`
	// What the first of them is, and whether the peer could help.
	// +optional
	Damage string `json:"damage,omitempty"`
}

// RecoveryPoint is a moment that all members hold durably.
type RecoveryPoint struct {
	// Number of the checkpoint.
	Checkpoint int64 `json:"checkpoint"`
	// When it was taken.
	Time metav1.MicroTime `json:"time"`
	// The newest moment that it describes: later than time when nothing was
	// written after it.
	// +optional
	ValidUntil *metav1.MicroTime `json:"validUntil,omitempty"`
	// Names of the pins that keep it.
	// +optional
	// +listType=set
	Pins []string `json:"pins,omitempty"`
}

// HistoryTier is a tier of a group's history, and what it holds.
type HistoryTier struct {
	// Of each interval the first point is kept. Absent: every point is.
	// +optional
	Interval Duration `json:"interval,omitempty"`
	// How old what the tier keeps is at most.
	Age Duration `json:"age"`
	// How many points are of its age, of the last tier also older ones that pins
	// keep: as many as the member with the fewest holds.
	Points int64 `json:"points"`
	// When the oldest of them was taken.
	// +optional
	Oldest *metav1.MicroTime `json:"oldest,omitempty"`
	// What its records take in the journals of all members: what is not thinned is
	// the first tier's. What pins alone keep is of none.
	// +optional
	Journal *resource.Quantity `json:"journal,omitempty"`
}

// Lag is how far a replica is behind its primary.
type Lag struct {
	// +optional
	Records int64 `json:"records"`
	// +optional
	Bytes int64 `json:"bytes"`
	// Age of the oldest record that the replica does not hold durably.
	// +optional
	Time Duration `json:"time,omitempty"`
}

// ReplicationState is how it stands with a peer.
//
// +kubebuilder:validation:Enum=Synced;Streaming;Copying;Disconnected;Orphaned
type ReplicationState string

// States of a group's replication.
const (
	// ReplicationSynced: the replica holds everything up to the newest point.
	ReplicationSynced ReplicationState = "Synced"
	// ReplicationStreaming: records are under way.
	ReplicationStreaming ReplicationState = "Streaming"
	// ReplicationCopying: a member is sent whole, because the replica holds
	// nothing of it or the journal no longer reaches back so far.
	ReplicationCopying ReplicationState = "Copying"
	// ReplicationDisconnected: the peer is not reached, or refuses; on a
	// replica: its primary has not been heard of.
	ReplicationDisconnected ReplicationState = "Disconnected"
	// ReplicationOrphaned: the group has ended at the primary that fed this
	// replica. It stays until somebody fails over to it or removes it.
	ReplicationOrphaned ReplicationState = "Orphaned"
)

// GroupReplication is how it stands with the peer of a group.
type GroupReplication struct {
	// Name of the other site: where the records go, or come from.
	Peer string `json:"peer"`
	// +optional
	State ReplicationState `json:"state,omitempty"`
	// Since when; Streaming and Synced count as one. On a replica that is
	// disconnected: when its primary was last heard of.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// Of all members: records and bytes that the replica does not hold, and the
	// age of the oldest. On a replica, records and bytes are what its primary
	// said last, and the time is the age of the newest point.
	// +optional
	Lag *Lag `json:"lag,omitempty"`
	// While Copying: how much of the members that are sent whole has been
	// passed, and how much they have.
	// +optional
	Copied *CopyProgress `json:"copied,omitempty"`
	// Why it is disconnected or orphaned.
	// +optional
	Message string `json:"message,omitempty"`
}

// CopyProgress is how far members are that are sent whole.
type CopyProgress struct {
	Done resource.Quantity `json:"done"`
	Of   resource.Quantity `json:"of"`
}

// OpenRewind is a rewind that was neither undone nor committed.
type OpenRewind struct {
	Started metav1.Time `json:"started"`
	// Where the group is now.
	To RecoveryPoint `json:"to"`
	// Where it was before, and where an undo returns to.
	From RecoveryPoint `json:"from"`
}
