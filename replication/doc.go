// Package replication ships the journals of a group's volumes from the site
// that is primary to a site that holds replicas. docs/replication.md specifies
// the protocol; api/replication/v1 is its encoding.
//
// A [Sender] runs at the primary, one per group and peer. It dials the peer's
// gateway, announces the group (term, settings, members, newest checkpoint)
// as a heartbeat, and keeps one stream open per member. A [Server] runs at the
// other site and feeds the replica stores.
//
// Where a site is several processes, the two halves of each run apart: an
// [Announcer] and an [AnnounceServer] in the controller, a [VolumeSender] and
// a [StreamServer] in the engine of each volume. Package replication/gateway
// is what the other site then connects to.
//
// Both sides of a stream are state machines without goroutines, timers or a
// connection (source and replica in this package), so that the whole protocol,
// with crashes, partitions, failover and failback, is tested by deterministic
// simulations of both arrangements; the types above only connect them to gRPC.
//
// # Invariants
//
//   - Only durable records are sent, in the order of the source's path. A
//     replica's store therefore always is a prefix, in write order, of what
//     its source has written.
//   - An acknowledged position is durable on the replica.
//   - A group's term only rises. A site accepts data from exactly the site
//     that owns the term it holds; see judge for the decision table. A new
//     term is durable before a record of it is taken, and no stream of an
//     older term can append by then.
//   - When [Server.Fence] has returned, no record is appended to the group's
//     stores until it is released, and afterwards none of a lower term. When
//     [StreamServer.Fence] has returned, none of a lower term ever is.
//   - The Sender only reads stores: a slow, stuck or dead peer never delays a
//     write. What is unacknowledged is bounded in bytes and in messages.
//   - A repair (see [Repairable]) puts back what was there and appends nothing:
//     what is acknowledged, and what a position shows, is never another for it.
//   - Bad input from a peer is an error and changes nothing.
//
// # Goroutines
//
// [Sender.Run] owns two goroutines per member, of which one asks for repairs, and
// two more while that member's stream is open; all have ended when Run returns. A Server or
// StreamServer owns one goroutine per stream, joined by its Close; the calls
// themselves run on goroutines of the grpc.Server.
//
// # What it does not do
//
// It keeps no state of its own: roles and terms are kept by the site
// ([Groups]) or the engine ([Orders]), data by its stores ([ReplicaStores]). It
// takes no checkpoints and
// computes no recovery points; those follow from what the stores hold. It
// decides no failover.
package replication
