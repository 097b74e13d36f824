package journal

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// Buckets of the catalog, see docs/format.md. Values are JSON.
const (
	bucketMeta      = "meta"
	bucketTimelines = "timelines"
	bucketSegments  = "segments"
	bucketPins      = "pins"
)

var keyState = []byte("state")

// catalogState is the store's small mutable state.
type catalogState struct {
	SizeBytes int64
	Active    TimelineID
	// Base is the newest position whose records may be in the base image
	// only. Records up to it are in the base, or are being written there
	// again from the journal after a crash (see Destaging).
	Base Position
	// Horizon is the oldest position that can be opened. It is ahead of Base
	// while records between the two are being destaged.
	Horizon Position
	// CleanTip is the tip at the last clean Close, and absent from the first
	// change after Open on.
	CleanTip *Position `json:",omitempty"`
}

// segmentEntry is a sealed segment as the catalog knows it.
type segmentEntry struct {
	Timeline TimelineID
	First    Seq
	Last     Seq
	EndBytes int64
	Bytes    int64
	ClosedAt time.Time
}

// catalog reads and writes the store's database. Every write is durable and
// atomic on return.
type catalog struct{ db kv.DB }

func key64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func putJSON(tx kv.Tx, bucket string, key []byte, value any) error {
	b, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s entry: %w", bucket, err)
	}
	return tx.Put(bucket, key, b)
}

func (c *catalog) saveState(tx kv.Tx, s catalogState) error {
	return putJSON(tx, bucketMeta, keyState, s)
}

func (c *catalog) saveTimeline(tx kv.Tx, t Timeline) error {
	return putJSON(tx, bucketTimelines, key64(uint64(t.ID)), t)
}

func (c *catalog) saveSegment(tx kv.Tx, id segmentID, e segmentEntry) error {
	return putJSON(tx, bucketSegments, key64(uint64(id)), e)
}

func (c *catalog) dropSegment(tx kv.Tx, id segmentID) error {
	return tx.Delete(bucketSegments, key64(uint64(id)))
}

func (c *catalog) dropTimeline(tx kv.Tx, id TimelineID) error {
	return tx.Delete(bucketTimelines, key64(uint64(id)))
}

// catalogContent is all that a catalog holds.
type catalogContent struct {
	state     catalogState
	timelines map[TimelineID]Timeline
	segments  map[segmentID]segmentEntry
	pins      map[string]Position
}

// load reads the whole catalog. A value that cannot be read is ErrCorrupt.
func (c *catalog) load() (catalogContent, error) {
	content := catalogContent{
		timelines: map[TimelineID]Timeline{}, segments: map[segmentID]segmentEntry{}, pins: map[string]Position{},
	}
	err := c.db.View(func(tx kv.Tx) error {
		var failed error
		each := func(bucket string, into func(key, value []byte) error) {
			tx.Range(bucket, nil, func(key, value []byte) bool {
				if err := into(key, value); err != nil {
					failed = &CorruptError{File: catalogFile, What: bucket + " entry", Wanted: "a value of format version 1", Found: fmt.Sprintf("%q: %v", key, err)}
				}
				return failed == nil
			})
		}
		found := false
		each(bucketMeta, func(key, value []byte) error {
			found = found || string(key) == string(keyState)
			return json.Unmarshal(value, &content.state)
		})
		each(bucketTimelines, func(_, value []byte) error {
			var t Timeline
			err := json.Unmarshal(value, &t)
			content.timelines[t.ID] = t
			return err
		})
		each(bucketSegments, func(key, value []byte) error {
			var e segmentEntry
			if len(key) != 8 {
				return fmt.Errorf("key of %d bytes", len(key))
			}
			err := json.Unmarshal(value, &e)
			content.segments[segmentID(binary.BigEndian.Uint64(key))] = e
			return err
		})
		each(bucketPins, func(key, value []byte) error {
			var p Position
			err := json.Unmarshal(value, &p)
			content.pins[string(key)] = p
			return err
		})
		if failed == nil && !found {
			failed = &CorruptError{File: catalogFile, What: "state", Wanted: "an entry", Found: "none"}
		}
		return failed
	})
	return content, err
}
