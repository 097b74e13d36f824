package replication

import (
	"fmt"

	"github.com/klauspost/compress/zstd"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

// codec compresses and decompresses whole batches and chunks. It may be used
// concurrently and owns no goroutine.
type codec struct {
	encoder *zstd.Encoder // nil: nothing is compressed
	decoder *zstd.Decoder
}

// newCodec makes a codec; compress says whether its user wants what it sends
// compressed. What it receives is decompressed in any case.
func newCodec(compress bool) (*codec, error) {
	c := new(codec)
	var err error
	c.decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxBatchBytes))
	if err != nil {
		return nil, fmt.Errorf("make decompressor: %w", err)
	}
	if compress {
		c.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err != nil {
			return nil, fmt.Errorf("make compressor: %w", err)
		}
	}
	return c, nil
}

// pack returns raw compressed, or raw itself where that is not shorter.
func (c *codec) pack(raw []byte) (replicationv1.Codec, []byte) {
	if c.encoder == nil {
		return replicationv1.Codec_CODEC_NONE, raw
	}
	packed := c.encoder.EncodeAll(raw, make([]byte, 0, len(raw)))
	if len(packed) >= len(raw) {
		return replicationv1.Codec_CODEC_NONE, raw
	}
	return replicationv1.Codec_CODEC_ZSTD, packed
}

// unpack is the inverse of pack; rawBytes is what the peer says comes out and
// limit the most that is allowed.
func (c *codec) unpack(kind replicationv1.Codec, data []byte, rawBytes, limit int64) ([]byte, error) {
	if rawBytes <= 0 || rawBytes > limit {
		return nil, fmt.Errorf("data of %d bytes, want 1 to %d: %w", rawBytes, limit, ErrLimit)
	}
	raw := data
	switch kind {
	case replicationv1.Codec_CODEC_NONE:
	case replicationv1.Codec_CODEC_ZSTD:
		var err error
		// The decoder stops at the buffer's capacity or at its memory limit,
		// whatever the frame claims.
		if raw, err = c.decoder.DecodeAll(data, make([]byte, 0, rawBytes)); err != nil {
			return nil, fmt.Errorf("decompress: %v: %w", err, journal.ErrCorrupt)
		}
	default:
		return nil, fmt.Errorf("codec %d is unknown: %w", kind, ErrProtocol)
	}
	if int64(len(raw)) != rawBytes {
		return nil, fmt.Errorf("data has %d bytes, want %d: %w", len(raw), rawBytes, journal.ErrCorrupt)
	}
	return raw, nil
}

// decodeBatch returns the records of a batch, all on one timeline, ascending, without
// gaps unless it is a leap's, each checksum verified. Payloads are parts of the batch's memory.
func (c *codec) decodeBatch(m *replicationv1.Batch, volume journal.VolumeID, gaps bool) ([]journal.Record, error) {
	raw, err := c.unpack(m.GetCodec(), m.GetData(), m.GetRawBytes(), MaxBatchBytes)
	if err != nil {
		return nil, err
	}
	if int64(m.GetRecords())*journal.RecordHeaderBytes > int64(len(raw)) || m.GetRecords() == 0 {
		return nil, fmt.Errorf("batch of %d records in %d bytes: %w", m.GetRecords(), len(raw), ErrProtocol)
	}
	records := make([]journal.Record, 0, m.GetRecords())
	for len(raw) > 0 {
		r, n, err := journal.DecodeRecord(raw, volume)
		if err != nil {
			return nil, fmt.Errorf("decode record %d of the batch: %w", len(records), err)
		}
		raw = raw[n:]
		if len(records) > 0 {
			before := records[len(records)-1].Position
			follows := r.Position.Seq == before.Seq+1 || gaps && r.Position.Seq > before.Seq
			if r.Position.Timeline != before.Timeline || !follows {
				return nil, fmt.Errorf("record %s follows %s in a batch: %w", r.Position, before, ErrProtocol)
			}
		}
		records = append(records, r)
	}
	if len(records) != int(m.GetRecords()) {
		return nil, fmt.Errorf("batch has %d records, want %d: %w", len(records), m.GetRecords(), ErrProtocol)
	}
	return records, nil
}

// decodeChunk returns the verified bytes of a chunk of an image.
func (c *codec) decodeChunk(m *replicationv1.Chunk) ([]byte, error) {
	raw, err := c.unpack(m.GetCodec(), m.GetData(), m.GetRawBytes(), MaxChunkBytes)
	if err != nil {
		return nil, err
	}
	if got := journal.PayloadChecksum(raw); got != m.GetCrc() {
		return nil, fmt.Errorf("chunk at %d: wanted crc %08x, found %08x: %w", m.GetOffset(), m.GetCrc(), got, journal.ErrCorrupt)
	}
	return raw, nil
}
