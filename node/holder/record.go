package holder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
)

// record is what a holder leaves about a volume for the one after it, in
// .volumes/VOLUME.json of the directory. It is written before what it says is
// handed to anybody, and replaced as a whole. It is not synced: it means nothing
// without the mount that it describes, which ends with the machine.
type record struct {
	Version    int    `json:"v"`
	Volume     string `json:"volume"`
	BlockBytes int    `json:"blockBytes"`
	ReadOnly   bool   `json:"readOnly,omitempty"`
	// Connection is the number of the FUSE connection, which is the minor
	// device number of its file system.
	Connection uint32         `json:"connection"`
	Init       fuse.InitState `json:"init"`
	// Lease numbers the leases of this mount, from 1; it is that of the newest
	// one. 0: the descriptor was never handed out.
	Lease uint64 `json:"lease"`
	// Identity is drawn for each mount; empty: an earlier version made it. See newIdentity.
	Identity string `json:"identity,omitempty"`
	// Attachment is what attaches the volume to this node, as Attest was told; empty:
	// nobody has told it of this mount.
	Attachment string `json:"attachment,omitempty"`
}

const recordVersion = 1

// recordSuffix ends the names of records; a volume id may contain dots too, but
// what is in front of the last suffix is one.
const recordSuffix = ".json"

func recordPath(dir, volume string) string {
	return filepath.Join(dir, recordsDir, volume+recordSuffix)
}

// save replaces the record of its volume. Where there is no room for another file it is
// written over the one that there is, or a device could not be taken over on a full disk.
func (r record) save(dir string) error {
	r.Version = recordVersion
	content, err := json.Marshal(r)
	if err == nil {
		content = append(content, '\n')
		err = replaceFile(recordPath(dir, r.Volume), content)
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		_ = os.Remove(recordPath(dir, r.Volume) + ".new") // the beginning of one
		if overwrite(recordPath(dir, r.Volume), content) == nil {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("record volume %s: %w", r.Volume, err)
	}
	return nil
}

// overwrite writes content over a file that is there, with spaces behind it as far as the
// file goes: nothing that reads it minds them. It is one write within a block, which a
// process that is killed does whole or not at all.
func overwrite(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		padding := max(info.Size()-int64(len(content)), 0)
		_, err = f.WriteAt(append(slices.Clone(content), bytes.Repeat([]byte{' '}, int(padding))...), 0)
	}
	return errors.Join(err, f.Close())
}

func removeRecord(dir, volume string) error {
	if err := os.Remove(recordPath(dir, volume)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove record of volume %s: %w", volume, err)
	}
	return nil
}

// loadRecords reads what earlier holders left. A record that cannot be
// understood is reported and left out: its volume cannot be given back.
func loadRecords(dir string) (map[string]record, error) {
	if err := os.MkdirAll(filepath.Join(dir, recordsDir), 0o700); err != nil {
		return nil, fmt.Errorf("make directory for records: %w", err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, recordsDir))
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	records := make(map[string]record)
	var damaged []error
	for _, entry := range entries {
		volume, found := strings.CutSuffix(entry.Name(), recordSuffix)
		if !found {
			continue // the beginning of one
		}
		r, err := loadRecord(dir, volume)
		if err != nil {
			damaged = append(damaged, err)
			continue
		}
		records[volume] = r
	}
	return records, errors.Join(damaged...)
}

func loadRecord(dir, volume string) (record, error) {
	content, err := os.ReadFile(recordPath(dir, volume))
	var r record
	if err == nil {
		r, err = decodeRecord(content, volume)
	}
	if err != nil {
		return record{}, fmt.Errorf("read record of volume %s: %w", volume, err)
	}
	return r, nil
}

func decodeRecord(content []byte, volume string) (record, error) {
	var r record
	if err := json.Unmarshal(content, &r); err != nil {
		return record{}, err
	}
	switch {
	case r.Version != recordVersion:
		return record{}, fmt.Errorf("%w: record version %d", ErrVersion, r.Version)
	case r.Volume != volume || !volumeID.MatchString(volume):
		return record{}, fmt.Errorf("%w: it is of %q", ErrInvalid, r.Volume)
	}
	return r, nil
}
