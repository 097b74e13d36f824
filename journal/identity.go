package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"path"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// StoreFormatVersion is the version of a store's directory as a whole, see
// docs/format.md. Version 2 knows the size of the volume at every position,
// version 3 can have the journal in a directory of its own, has checksums for the
// base, and can have segments that were thinned.
const StoreFormatVersion = 3

const maxIdentityBytes = 64 << 10

// identity is volume.json. It is written last when a store is made, which makes
// the directory a store, and again when a program of a newer version opens it.
type identity struct {
	Format  string    `json:"format"` // identityFormat or overlayFormat
	Version int       `json:"version"`
	Volume  VolumeID  `json:"volume"`
	Created time.Time `json:"created"`
	// Journal is the id of the journal's own directory; empty: it has none.
	Journal string `json:"journal,omitempty"`
	// Origin and OriginAt name what an overlay lies over; zero for a store.
	Origin   string `json:"origin,omitempty"`
	OriginAt string `json:"originAt,omitempty"`
	// Checksum is the CRC32C, in 8 hexadecimal digits, of the other fields.
	Checksum string `json:"checksum"`
}

const (
	identityFormat = "lockstep-store"
	overlayFormat  = "lockstep-overlay"
)

// checksum covers the values of the other fields, a line each.
func (i *identity) checksum() string {
	text := fmt.Sprintf("%s\n%d\n%s\n%s\n", i.Format, i.Version, i.Volume, i.Created.Format(time.RFC3339Nano))
	if i.Journal != "" {
		text += i.Journal + "\n"
	}
	if i.Origin != "" || i.OriginAt != "" {
		text += i.Origin + "\n" + i.OriginAt + "\n"
	}
	return fmt.Sprintf("%08x", crc32.Checksum([]byte(text), castagnoli))
}

// newIdentity describes a store that this program makes; journal is empty
// unless that has a directory of its own.
func newIdentity(volume VolumeID, created time.Time, journal string) identity {
	return identity{Format: identityFormat, Version: StoreFormatVersion, Volume: volume, Created: created.UTC(), Journal: journal}
}

// encode returns the content of volume.json.
func (i identity) encode() ([]byte, error) {
	i.Checksum = i.checksum()
	b, err := json.MarshalIndent(i, "", "  ")
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
	if id.Format != identityFormat && id.Format != overlayFormat {
		return damaged(fmt.Sprintf("format %q or %q", identityFormat, overlayFormat), fmt.Sprintf("%q", id.Format), nil)
	}
	if id.Version < 1 || id.Version > StoreFormatVersion {
		return damaged(fmt.Sprintf("version 1 to %d", StoreFormatVersion), fmt.Sprint(id.Version), ErrVersion)
	}
	if sum := id.checksum(); id.Checksum != sum {
		return damaged("checksum "+sum, fmt.Sprintf("%q", id.Checksum), nil)
	}
	if id.Volume.IsZero() {
		return damaged("a volume id", "none", nil)
	}
	if err := id.checkOrigin(); err != nil {
		return damaged("an origin if it is an overlay's", err.Error(), nil)
	}
	return id, nil
}

// upgradeIdentity keeps programs of an older version, which would misread what
// this one writes, from opening the store; durable on return. It comes before
// the first such write, and the old catalog is valid under the new version.
func upgradeIdentity(cfg *Config, id identity) error {
	if id.Version == StoreFormatVersion {
		return nil
	}
	if err := cfg.FS.RemoveAll(cfg.file(volumeFile + tempSuffix)); err != nil { // of an upgrade that a crash cut short
		return fmt.Errorf("upgrade %s: %w", volumeFile, err)
	}
	cfg.Log.Info("store upgraded", "volume", id.Volume, "from", id.Version, "to", StoreFormatVersion)
	id.Version = StoreFormatVersion
	b, err := id.encode()
	if err == nil {
		err = writeTemp(cfg, volumeFile, b)
	}
	if err == nil {
		err = publish(cfg, volumeFile)
	}
	return err
}

// writeTemp writes what publish will make a file of that name. The content is
// durable on return, its temporary name is not.
func writeTemp(cfg *Config, name string, b []byte) error {
	f, err := cfg.FS.Create(cfg.file(name + tempSuffix))
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// publish gives the file that writeTemp wrote its name, in place of what has it;
// durable on return.
func publish(cfg *Config, name string) error {
	err := cfg.FS.Rename(cfg.file(name+tempSuffix), cfg.file(name))
	if err == nil {
		err = cfg.FS.SyncDir(path.Dir(cfg.file(name)))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// readSmall reads a file of identity; vfs.ErrNotExist if there is none.
func readSmall(cfg *Config, name string) ([]byte, error) {
	f, err := cfg.FS.OpenReadOnly(cfg.file(name))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if size > maxIdentityBytes {
		return nil, &CorruptError{File: name, What: "identity", Wanted: fmt.Sprintf("at most %d bytes", maxIdentityBytes), Found: fmt.Sprint(size)}
	}
	b := make([]byte, size)
	if err := readFull(f, b, 0); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// readIdentity reads volume.json; ErrNotStore if there is none.
func readIdentity(cfg *Config) (identity, error) {
	b, err := readSmall(cfg, volumeFile)
	if errors.Is(err, vfs.ErrNotExist) {
		return identity{}, fmt.Errorf("open %s: %w", cfg.Dir, ErrNotStore)
	}
	if err != nil {
		return identity{}, err
	}
	return decodeIdentity(b)
}
