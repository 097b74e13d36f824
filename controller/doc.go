// Package controller is the CSI controller and group controller: it decides
// what volumes, snapshots and attachments there are, remembers it in the
// catalog, and has a Backend make it so.
//
// # Volumes and groups
//
// Each volume belongs to one consistency group: the one that its `group`
// parameter names, or one of its own that has the volume's name. The
// parameters are described at ParameterKeys, and MutableParameterKeys are
// those that ControllerModifyVolume changes; settings belong to the group, so
// changing them through one volume changes them for every member.
//
// # Snapshots
//
// A snapshot pins one recovery point of the whole group. Its id stands for
// the pin and the volume that it was asked of; restoring it gives that
// volume's image unless the parameter `lockstep.dev/member` names another
// member as of that point. Pins are never shared: deleting a snapshot never
// touches another's. Volumes are independent of their snapshots: a deleted
// volume's store is retained until the last pin that needs it is released.
//
// # Invariants
//
// Every RPC writes its intent to the catalog first, then has its effect
// through the Backend, then records the result. Reconcile finishes or rolls
// back what a crash interrupted. Calls for one volume, snapshot or group take
// turns; one that cannot have its turn soon is answered Aborted. An operation
// whose caller gives up is completed nevertheless, and a repeated call finds
// its result; so a copy that takes longer than a caller's patience still
// ends.
//
// The Server owns one goroutine for each operation in progress, at most
// maxOperations; Close ends and joins them. It does not mount, format or open
// devices: package node does.
package controller
