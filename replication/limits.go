package replication

import (
	"time"

	"github.com/lockstep-csi/lockstep/internal/rpc"
	"github.com/lockstep-csi/lockstep/journal"
)

// ProtocolVersion is the version of the protocol that this program speaks. A
// peer of another version is refused with ErrProtocolVersion.
const ProtocolVersion = 1

// Limits of what a peer may send. A message beyond them is refused with
// ErrLimit or ErrProtocol before anything of its size is allocated.
const (
	// MaxNameBytes bounds names of groups, members and sites, and reasons of
	// timelines.
	MaxNameBytes = 256
	// MaxMembers bounds the members of a group.
	MaxMembers = 4096
	// MaxAttributes bounds the attributes of a member, MaxAttributeKeyBytes
	// the length of a key, and MaxAttributesBytes what they count together:
	// keys, values, and attributeFrameBytes for each.
	MaxAttributes        = 16
	MaxAttributeKeyBytes = 63
	MaxAttributesBytes   = 1024
	attributeFrameBytes  = 8
	// MaxGroupAttributesBytes bounds what the attributes of all members count,
	// so that a full announcement still is one message.
	MaxGroupAttributesBytes = 768 << 10
	// MaxTimelines bounds the runs of a path and the timelines beside it. A
	// source with more sends the newest.
	MaxTimelines = 4096
	// MaxVolumeBytes bounds a volume's size.
	MaxVolumeBytes = 1 << 48
	// MaxRecordBytes is the largest portable form of a record.
	MaxRecordBytes = journal.RecordHeaderBytes + journal.MaxPayloadBytes
	// MaxBatchBytes bounds the records of a batch, decompressed. One record
	// always fits.
	MaxBatchBytes = MaxRecordBytes + TargetBatchBytes
	// MaxChunkBytes bounds a chunk of an image, decompressed.
	MaxChunkBytes = 1 << 20
	// MaxMessageBytes bounds an encoded message: a batch and its frame, or a
	// full announcement.
	MaxMessageBytes = MaxBatchBytes + 64<<10
)

// Sizes and intervals of a sender and receiver of this version. They are not
// part of the protocol.
const (
	// TargetBatchBytes is where a batch is closed although more records are
	// there to send.
	TargetBatchBytes = 1 << 20
	// DefaultCreditBytes is how much a sender keeps unacknowledged.
	DefaultCreditBytes = 16 << 20
	// maxUnacked bounds the data messages in flight, so that tiny batches
	// cannot make the sender's bookkeeping long.
	maxUnacked = 1024
	// maxQueuedMessages bounds what a receiver holds undigested per stream;
	// when the queue is full it stops reading and HTTP/2 stops the sender.
	maxQueuedMessages = 8
	// DefaultHeartbeat is the time between two announcements of a group.
	DefaultHeartbeat = time.Second
	// callTimeout bounds one announcement. It covers a demotion on the other
	// side, which has to stop engines.
	callTimeout = 30 * time.Second
	// minBackoff and maxBackoff bound the pause before a stream is opened again,
	// as they do that before a reconnect.
	minBackoff = rpc.MinBackoff
	maxBackoff = rpc.MaxBackoff
	// fullPause is that after a replica had no room, less up to a half of it at random.
	fullPause = 10 * time.Second
)
