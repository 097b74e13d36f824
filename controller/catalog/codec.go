package catalog

import (
	"encoding/json"
	"fmt"
)

// recordVersion is the version of every record written today. Version 1 is
// the first.
const recordVersion = 1

// envelope is the stored form of each record.
type envelope struct {
	Version int             `json:"version"`
	Record  json.RawMessage `json:"record"`
}

func encode(record any) ([]byte, error) {
	body, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return json.Marshal(envelope{Version: recordVersion, Record: body})
}

func decode(bucket string, key, value []byte, record any) error {
	var e envelope
	if err := json.Unmarshal(value, &e); err != nil {
		return fmt.Errorf("decode %s/%s: %w: %w", bucket, key, ErrCorrupt, err)
	}
	if e.Version != recordVersion {
		return fmt.Errorf("decode %s/%s: version %d, want %d: %w", bucket, key, e.Version, recordVersion, ErrVersion)
	}
	if err := json.Unmarshal(e.Record, record); err != nil {
		return fmt.Errorf("decode %s/%s: %w: %w", bucket, key, ErrCorrupt, err)
	}
	return nil
}
