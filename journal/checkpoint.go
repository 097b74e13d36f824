package journal

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// Checkpoint is a group-wide cut as one member's journal holds it.
type Checkpoint struct {
	Number CheckpointNumber
	Time   time.Time // of the group's coordinator, UTC
	CheckpointInfo
	// Position of the checkpoint's record on this volume. Set by the store.
	Position Position
}

// CheckpointInfo is the payload of a checkpoint record: the group as it was.
type CheckpointInfo struct {
	Group   string
	Members []VolumeID // all members at that moment, ascending
}

// Limits of a CheckpointInfo; its decoder refuses more.
const (
	maxGroupNameBytes = 256
	maxGroupMembers   = 4096
)

const checkpointInfoVersion = 1

// Times that a record can hold: nanoseconds since 1970 in 63 bits.
var (
	minCheckpointTime = time.Unix(0, 0)
	maxCheckpointTime = time.Unix(0, math.MaxInt64)
)

// validate checks what a record could not hold.
func (c *Checkpoint) validate() error {
	if c.Number == 0 || c.Number > math.MaxInt64 {
		return fmt.Errorf("checkpoint number %d: %w", c.Number, ErrRange)
	}
	if c.Time.Before(minCheckpointTime) || c.Time.After(maxCheckpointTime) {
		return fmt.Errorf("checkpoint time %s: %w", c.Time, ErrRange)
	}
	return c.CheckpointInfo.validate()
}

func (c *CheckpointInfo) validate() error {
	if len(c.Group) == 0 || len(c.Group) > maxGroupNameBytes {
		return fmt.Errorf("checkpoint's group name has %d bytes, want 1 to %d", len(c.Group), maxGroupNameBytes)
	}
	if len(c.Members) > maxGroupMembers {
		return fmt.Errorf("checkpoint has %d members, want at most %d", len(c.Members), maxGroupMembers)
	}
	return nil
}

// appendEncoded appends the payload form: version u16, name length u16, name,
// member count u32, ids.
func (c *CheckpointInfo) appendEncoded(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, checkpointInfoVersion)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(c.Group)))
	dst = append(dst, c.Group...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(c.Members)))
	for _, id := range c.Members {
		dst = append(dst, id[:]...)
	}
	return dst
}

func decodeCheckpointInfo(b []byte) (CheckpointInfo, error) {
	short := func() (CheckpointInfo, error) {
		return CheckpointInfo{}, wireCorrupt("checkpoint payload", "group and members", fmt.Sprintf("%d bytes", len(b)))
	}
	if len(b) < 4 {
		return short()
	}
	if v := binary.LittleEndian.Uint16(b); v != checkpointInfoVersion {
		return CheckpointInfo{}, fmt.Errorf("checkpoint payload version %d: %w", v, ErrVersion)
	}
	nameBytes := int(binary.LittleEndian.Uint16(b[2:]))
	rest := b[4:]
	if nameBytes > maxGroupNameBytes || len(rest) < nameBytes+4 {
		return short()
	}
	info := CheckpointInfo{Group: string(rest[:nameBytes])}
	count := int(binary.LittleEndian.Uint32(rest[nameBytes:]))
	rest = rest[nameBytes+4:]
	if count > maxGroupMembers || len(rest) != count*len(VolumeID{}) {
		return short()
	}
	info.Members = make([]VolumeID, count)
	for i := range info.Members {
		copy(info.Members[i][:], rest[i*len(VolumeID{}):])
	}
	return info, info.validate()
}

// checkpointOf reads a checkpoint record.
func checkpointOf(r *Record) (Checkpoint, error) {
	info, err := decodeCheckpointInfo(r.Payload)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read checkpoint %d: %w", r.Offset, err)
	}
	return Checkpoint{Number: CheckpointNumber(r.Offset), Time: r.Time(), CheckpointInfo: info, Position: r.Position}, nil
}
