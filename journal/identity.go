package journal

import (
	"encoding/json"
	"errors"
	"fmt"
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
}

const identityFormat = "lockstep-store"

// writeIdentity makes the directory a store; durable on return.
func writeIdentity(cfg *Config, volume VolumeID) error {
	b, err := json.MarshalIndent(identity{identityFormat, StoreFormatVersion, volume, cfg.Clock.Now().UTC()}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", volumeFile, err)
	}
	tmp := cfg.file(volumeFile + ".tmp")
	f, err := cfg.FS.Create(tmp)
	if err != nil {
		return fmt.Errorf("write %s: %w", volumeFile, err)
	}
	_, err = f.WriteAt(append(b, '\n'), 0)
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

// readIdentity tells a missing store, a foreign file, a newer version and
// damage from each other.
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
	damaged := func(wanted, found string, kind error) (identity, error) {
		return identity{}, &CorruptError{File: volumeFile, What: "identity", Wanted: wanted, Found: found, Kind: kind}
	}
	if size > maxIdentityBytes {
		return damaged(fmt.Sprintf("at most %d bytes", maxIdentityBytes), fmt.Sprint(size), nil)
	}
	b := make([]byte, size)
	if err := readFull(f, b, 0); err != nil {
		return identity{}, fmt.Errorf("read %s: %w", volumeFile, err)
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
	if id.Volume.IsZero() {
		return damaged("a volume id", "none", nil)
	}
	return id, nil
}
