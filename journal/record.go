package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"
)

// SectorBytes is the granularity of offsets and lengths of volume data.
const SectorBytes = 512

// MaxPayloadBytes bounds the payload of one record; longer changes are split
// by the caller. Decoders refuse more before they allocate.
const MaxPayloadBytes = 1 << 20

// maxExtentBytes bounds the extent of one record; longer discards and zeroes
// are split. An extent of the index holds it in one piece, without which the
// room for a footer could not be known before it is written.
const maxExtentBytes = 4 << 30

// RecordHeaderBytes is the size of a record's portable header: what travels
// between sites and is covered by the record's checksums.
const RecordHeaderBytes = 48

// Kind says what a record does to the volume.
type Kind uint8

// Kinds of records. Values are part of the format.
const (
	KindWrite      Kind = 1 // stores the payload at Offset
	KindDiscard    Kind = 2 // the extent is dropped and reads as zeroes
	KindZero       Kind = 3 // the extent reads as zeroes
	KindCheckpoint Kind = 4 // changes nothing; marks a group-wide cut
	KindResize     Kind = 5 // the volume is Length bytes long from here on
)

// String returns the kind's name as shown by tools.
func (k Kind) String() string {
	switch k {
	case KindWrite:
		return "write"
	case KindDiscard:
		return "discard"
	case KindZero:
		return "zero"
	case KindCheckpoint:
		return "checkpoint"
	case KindResize:
		return "resize"
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// Record is one entry of the journal. For KindCheckpoint, Offset holds the
// checkpoint number and Length the time in nanoseconds since the Unix epoch;
// the payload is a CheckpointInfo. Its fields are described in docs/format.md.
type Record struct {
	Kind     Kind
	Position Position
	Offset   int64
	Length   int64
	// PayloadCRC is the CRC32C of Payload, computed once when the change
	// arrived and carried unchanged over every hop.
	PayloadCRC uint32
	Payload    []byte

	// parts has the checksums of the parts of a long Payload, where it was appended
	// at this site.
	parts []uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// PayloadChecksum is the CRC32C (Castagnoli) of a payload.
func PayloadChecksum(payload []byte) uint32 { return crc32.Checksum(payload, castagnoli) }

// Time is a checkpoint record's time.
func (r *Record) Time() time.Time { return time.Unix(0, r.Length).UTC() }

// EncodedBytes is the length of the portable form: header and payload.
func (r *Record) EncodedBytes() int { return RecordHeaderBytes + len(r.Payload) }

// putHeader writes the portable header into b[:RecordHeaderBytes]. Its
// checksum covers the volume id too, so that a record of another volume, of
// another timeline or of another place fails.
func (r *Record) putHeader(b []byte, volume VolumeID) {
	_ = b[RecordHeaderBytes-1]
	binary.LittleEndian.PutUint32(b[4:], r.PayloadCRC)
	b[8] = byte(r.Kind)
	b[9], b[10], b[11] = 0, 0, 0
	binary.LittleEndian.PutUint32(b[12:], uint32(len(r.Payload)))
	binary.LittleEndian.PutUint64(b[16:], uint64(r.Position.Timeline))
	binary.LittleEndian.PutUint64(b[24:], uint64(r.Position.Seq))
	binary.LittleEndian.PutUint64(b[32:], uint64(r.Offset))
	binary.LittleEndian.PutUint64(b[40:], uint64(r.Length))
	binary.LittleEndian.PutUint32(b[0:], headerChecksum(b[4:RecordHeaderBytes], volume))
}

func headerChecksum(b []byte, volume VolumeID) uint32 {
	return crc32.Update(crc32.Checksum(volume[:], castagnoli), castagnoli, b)
}

// AppendEncoded appends the portable form of r, a record of volume, to dst.
func (r *Record) AppendEncoded(dst []byte, volume VolumeID) []byte {
	var header [RecordHeaderBytes]byte
	r.putHeader(header[:], volume)
	return append(append(dst, header[:]...), r.Payload...)
}

// DecodeRecord reads the portable form of one record of volume from the start
// of b and returns it with the bytes it took. Both checksums are verified. The
// payload is a part of b, not a copy. Errors match ErrCorrupt; a record of
// another volume cannot be told from a damaged one.
func DecodeRecord(b []byte, volume VolumeID) (Record, int, error) {
	r, payloadBytes, err := decodeHeader(b, volume)
	if err != nil {
		return Record{}, 0, err
	}
	end := RecordHeaderBytes + payloadBytes
	if len(b) < end {
		return Record{}, 0, wireCorrupt("payload", fmt.Sprintf("%d bytes", payloadBytes), fmt.Sprintf("%d", len(b)-RecordHeaderBytes))
	}
	r.Payload = b[RecordHeaderBytes:end:end]
	if got := PayloadChecksum(r.Payload); got != r.PayloadCRC {
		return Record{}, 0, wireCorrupt("payload", fmt.Sprintf("crc %08x", r.PayloadCRC), fmt.Sprintf("crc %08x", got))
	}
	return r, end, nil
}

// decodeHeader verifies and reads a portable header; Payload stays nil.
func decodeHeader(b []byte, volume VolumeID) (Record, int, error) {
	if len(b) < RecordHeaderBytes {
		return Record{}, 0, wireCorrupt("record header", fmt.Sprintf("%d bytes", RecordHeaderBytes), fmt.Sprintf("%d", len(b)))
	}
	want := binary.LittleEndian.Uint32(b[0:])
	if got := headerChecksum(b[4:RecordHeaderBytes], volume); got != want {
		return Record{}, 0, wireCorrupt("record header", fmt.Sprintf("crc %08x", want), fmt.Sprintf("crc %08x", got))
	}
	r := Record{
		Kind:       Kind(b[8]),
		PayloadCRC: binary.LittleEndian.Uint32(b[4:]),
		Position: Position{
			Timeline: TimelineID(binary.LittleEndian.Uint64(b[16:])),
			Seq:      Seq(binary.LittleEndian.Uint64(b[24:])),
		},
		Offset: int64(binary.LittleEndian.Uint64(b[32:])),
		Length: int64(binary.LittleEndian.Uint64(b[40:])),
	}
	if b[9]|b[10]|b[11] != 0 {
		return Record{}, 0, wireCorrupt("record header", "reserved bytes of zero", fmt.Sprintf("%x", b[9:12]))
	}
	payloadBytes := int(binary.LittleEndian.Uint32(b[12:]))
	if err := r.validate(payloadBytes); err != nil {
		return Record{}, 0, err
	}
	return r, payloadBytes, nil
}

// validate checks what a correct checksum does not promise: that a writer of
// this version can have made the record.
func (r *Record) validate(payloadBytes int) error {
	bad := func(what, wanted string, found any) error {
		return wireCorrupt(what, wanted, fmt.Sprint(found))
	}
	if payloadBytes > MaxPayloadBytes {
		return bad("payload length", fmt.Sprintf("at most %d", MaxPayloadBytes), payloadBytes)
	}
	if r.Position.Timeline == 0 || r.Position.Seq == 0 {
		return bad("record position", "timeline and seq above zero", r.Position)
	}
	switch r.Kind {
	case KindWrite, KindDiscard, KindZero:
		if r.Offset < 0 || r.Length <= 0 || r.Offset%SectorBytes != 0 || r.Length%SectorBytes != 0 || r.Offset > maxVolumeBytes-r.Length {
			return bad("record extent", "whole sectors inside a volume", fmt.Sprintf("offset %d length %d", r.Offset, r.Length))
		}
		if r.Length > maxExtentBytes {
			return bad("record extent", fmt.Sprintf("at most %d bytes", int64(maxExtentBytes)), r.Length)
		}
		if r.Kind == KindWrite && int64(payloadBytes) != r.Length || r.Kind != KindWrite && payloadBytes != 0 {
			return bad("payload length", "the extent's, for writes only", payloadBytes)
		}
	case KindCheckpoint:
		if r.Offset <= 0 {
			return bad("checkpoint number", "above zero", r.Offset)
		}
	case KindResize:
		if r.Length <= 0 || r.Length%SectorBytes != 0 || r.Length > maxVolumeBytes || payloadBytes != 0 {
			return bad("volume size", "whole sectors", r.Length)
		}
	default:
		return bad("record kind", "1 to 5", uint8(r.Kind))
	}
	return nil
}

func wireCorrupt(what, wanted, found string) error {
	return &CorruptError{File: "wire", What: what, Wanted: wanted, Found: found}
}
