package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// StoreFormatVersion is the version of a store's directory as a whole, see
// docs/format.md.
const StoreFormatVersion = 1

const maxIdentityBytes = 64 << 10

// identity is volume.json. It is written once, last when a store is made, and
// makes the directory a store.
type identity struct {
	Format  string    `json:"format"` // "lockstep-store"
	Version int       `json:"version"`
	Volume  VolumeID  `json:"volume"`
	Created time.Time `json:"created"`
	// Checksum is the CRC32C, in 8 hexadecimal digits, of the other fields.
	Checksum string `json:"checksum"`
}

const identityFormat = "lockstep-store"

// checksum covers the values of the other fields, a line each.
func (i *identity) checksum() string {
	text := fmt.Sprintf("%s\n%d\n%s\n%s\n", i.Format, i.Version, i.Volume, i.Created.Format(time.RFC3339Nano))
	return fmt.Sprintf("%08x", crc32.Checksum([]byte(text), castagnoli))
}

// encodeIdentity returns the content of volume.json.
func encodeIdentity(volume VolumeID, created time.Time) ([]byte, error) {
	id := identity{Format: identityFormat, Version: StoreFormatVersion, Volume: volume, Created: created.UTC()}
	id.Checksum = id.checksum()
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", volumeFile, err)
	}
	return append(b, '\n'), nil
}

// decodeIdentity tells a foreign file, a newer version and damage from each
// other.
func decodeIdentity(b []byte) (identity, error) {
	damaged := func(wanted, found string, kind error) (identity, error) {
		return identity{}, &CorruptError{File: volumeFile, What: "identity", Wanted: wanted, Found: found, Kind: kind}
	}
	var id identity
	if err := json.Unmarshal(b, &id); err != nil {
		return damaged("JSON", err.Error(), nil)
	}
	if id.Format != identityFormat {
		return damaged(fmt.Sprintf("format %q", identityFormat), fmt.Sprintf("%q", id.Format), nil)
	}
	if id.Version != StoreFormatVersion {
		return damaged(fmt.Sprintf("version %d", StoreFormatVersion), fmt.Sprint(id.Version), ErrVersion)
	}
	if sum := id.checksum(); id.Checksum != sum {
		return damaged("checksum "+sum, fmt.Sprintf("%q", id.Checksum), nil)
	}
	if id.Volume.IsZero() {
		return damaged("a volume id", "none", nil)
	}
	return id, nil
}

// writeIdentity makes the directory a store; durable on return.
func writeIdentity(cfg *Config, volume VolumeID) error {
	b, err := encodeIdentity(volume, cfg.Clock.Now())
	if err != nil {
		return err
	}
	tmp := cfg.file(volumeFile + ".tmp")
	f, err := cfg.FS.Create(tmp)
	if err != nil {
		return fmt.Errorf("write %s: %w", volumeFile, err)
	}
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = cfg.FS.Rename(tmp, cfg.file(volumeFile))
	}
	if err == nil {
		err = cfg.FS.SyncDir(cfg.Dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", volumeFile, err)
	}
	return nil
}

// readIdentity reads volume.json; ErrNotStore if there is none.
func readIdentity(cfg *Config) (identity, error) {
	f, err := cfg.FS.OpenReadOnly(cfg.file(volumeFile))
	if errors.Is(err, vfs.ErrNotExist) {
		return identity{}, fmt.Errorf("open %s: %w", cfg.Dir, ErrNotStore)
	}
	if err != nil {
		return identity{}, fmt.Errorf("open %s: %w", volumeFile, err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return identity{}, fmt.Errorf("read %s: %w", volumeFile, err)
	}
	if size > maxIdentityBytes {
		return identity{}, &CorruptError{File: volumeFile, What: "identity", Wanted: fmt.Sprintf("at most %d bytes", maxIdentityBytes), Found: fmt.Sprint(size)}
	}
	b := make([]byte, size)
	if err := readFull(f, b, 0); err != nil {
		return identity{}, fmt.Errorf("read %s: %w", volumeFile, err)
	}
	return decodeIdentity(b)
}
