package journal

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// VolumeID identifies a volume on every site that holds a store of it. The
// zero value is no volume.
type VolumeID [16]byte

// ParseVolumeID reads the text form: 32 lower-case hexadecimal digits.
func ParseVolumeID(text string) (VolumeID, error) {
	var id VolumeID
	if len(text) != 2*len(id) || strings.ToLower(text) != text {
		return VolumeID{}, fmt.Errorf("parse volume id %q: want 32 lower-case hexadecimal digits", text)
	}
	if _, err := hex.Decode(id[:], []byte(text)); err != nil {
		return VolumeID{}, fmt.Errorf("parse volume id %q: %w", text, err)
	}
	return id, nil
}

// String returns the text form that ParseVolumeID reads.
func (id VolumeID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id is no volume.
func (id VolumeID) IsZero() bool { return id == VolumeID{} }

// MarshalText implements encoding.TextMarshaler.
func (id VolumeID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *VolumeID) UnmarshalText(text []byte) error {
	parsed, err := ParseVolumeID(string(text))
	if err == nil {
		*id = parsed
	}
	return err
}

// TimelineID identifies a timeline of a volume. Ids are random, so that two
// sites never give the same one to different timelines. Zero is none.
type TimelineID uint64

// String returns 16 hexadecimal digits.
func (id TimelineID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// Seq numbers the records on a timeline path, from 1 on and without gaps. A
// fork goes on counting from its parent position. Zero stands for the state
// before any record.
type Seq uint64

// Position names one state of a volume: the one after record Seq on the path
// of Timeline. Positions of different timelines have no order.
type Position struct {
	Timeline TimelineID
	Seq      Seq
}

// String returns a fixed-width form that sorts by seq within a timeline:
// 16 hexadecimal digits, "/", 16 decimal digits.
func (p Position) String() string { return fmt.Sprintf("%s/%016d", p.Timeline, uint64(p.Seq)) }

// ParsePosition reads the form that String returns; the widths may be smaller.
func ParsePosition(text string) (Position, error) {
	timeline, seq, ok := strings.Cut(text, "/")
	if ok {
		t, err1 := strconv.ParseUint(timeline, 16, 64)
		s, err2 := strconv.ParseUint(seq, 10, 64)
		if err1 == nil && err2 == nil {
			return Position{TimelineID(t), Seq(s)}, nil
		}
	}
	return Position{}, fmt.Errorf("parse position %q: want TIMELINE/SEQ, for example 00c0ffee00c0ffee/42", text)
}

// CheckpointNumber numbers a group's checkpoints, from 1 on, rising over all
// timelines and failovers of the group. Zero is none.
type CheckpointNumber uint64
