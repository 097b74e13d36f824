package journal

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// A journal in a directory of its own, on another file system perhaps
// (docs/format.md, "A journal of its own"). The store and that directory are
// bound to each other by an id that both have: without the directory, or with
// another one, the store does not open, because to take what is missing for an
// empty journal would be to lose it.

// journalFormatVersion is that of journal.json.
const journalFormatVersion = 1

const journalIdentityFormat = "lockstep-journal"

// journalIdentity is journal.json. It is durable before the store is one, and
// never changes.
type journalIdentity struct {
	Format  string   `json:"format"` // "lockstep-journal"
	Version int      `json:"version"`
	Volume  VolumeID `json:"volume"`
	Journal string   `json:"journal"` // its id, 32 hexadecimal digits
	// Checksum is the CRC32C, in 8 hexadecimal digits, of the other fields.
	Checksum string `json:"checksum"`
}

func newJournalIdentity(volume VolumeID, journal string) journalIdentity {
	return journalIdentity{Format: journalIdentityFormat, Version: journalFormatVersion, Volume: volume, Journal: journal}
}

// checksum covers the values of the other fields, a line each.
func (i *journalIdentity) checksum() string {
	text := fmt.Sprintf("%s\n%d\n%s\n%s\n", i.Format, i.Version, i.Volume, i.Journal)
	return fmt.Sprintf("%08x", crc32.Checksum([]byte(text), castagnoli))
}

// encode returns the content of journal.json.
func (i journalIdentity) encode() ([]byte, error) {
	i.Checksum = i.checksum()
	b, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", journalFile, err)
	}
	return append(b, '\n'), nil
}

// decodeJournalIdentity tells a foreign file, a newer version and damage from
// each other.
func decodeJournalIdentity(b []byte) (journalIdentity, error) {
	damaged := func(wanted, found string, kind error) (journalIdentity, error) {
		return journalIdentity{}, &CorruptError{File: journalFile, What: "journal's identity", Wanted: wanted, Found: found, Kind: kind}
	}
	var id journalIdentity
	if err := json.Unmarshal(b, &id); err != nil {
		return damaged("JSON", err.Error(), nil)
	}
	if id.Format != journalIdentityFormat {
		return damaged(fmt.Sprintf("format %q", journalIdentityFormat), fmt.Sprintf("%q", id.Format), nil)
	}
	if id.Version != journalFormatVersion {
		return damaged(fmt.Sprintf("version %d", journalFormatVersion), fmt.Sprint(id.Version), ErrVersion)
	}
	if sum := id.checksum(); id.Checksum != sum {
		return damaged("checksum "+sum, fmt.Sprintf("%q", id.Checksum), nil)
	}
	if id.Volume.IsZero() || !isJournalID(id.Journal) {
		return damaged("a volume id and a journal id", fmt.Sprintf("%s and %q", id.Volume, id.Journal), nil)
	}
	return id, nil
}

const journalIDBytes = 16

func newJournalID(random io.Reader) (string, error) {
	var b [journalIDBytes]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("draw journal id: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

func isJournalID(text string) bool {
	b, err := hex.DecodeString(text)
	return err == nil && len(b) == journalIDBytes && strings.ToLower(text) == text
}

// readJournalIdentity reads journal.json; ErrNoJournal if there is none.
func readJournalIdentity(cfg *Config) (journalIdentity, error) {
	b, err := readSmall(cfg, journalFile)
	if errors.Is(err, vfs.ErrNotExist) {
		return journalIdentity{}, fmt.Errorf("%s holds no journal: %w", cfg.JournalDir, ErrNoJournal)
	}
	if err != nil {
		return journalIdentity{}, err
	}
	return decodeJournalIdentity(b)
}

// lockJournal makes sure that the journal's directory is the store's, and locks
// it; nil if the journal is in the store's own. Nothing is made in a directory
// that is not the store's. The store's lock must be held. Errors: ErrNoJournal,
// ErrForeign, ErrCorrupt, ErrVersion, ErrInUse.
func lockJournal(cfg *Config, id identity) (io.Closer, error) {
	switch {
	case id.Journal == "" && cfg.JournalDir == "":
		return nil, nil
	case id.Journal == "":
		return nil, fmt.Errorf("the store's journal is with its base, not in %s: %w", cfg.JournalDir, ErrForeign)
	case cfg.JournalDir == "":
		return nil, fmt.Errorf("it is in a directory of its own, which was not given: %w", ErrNoJournal)
	}
	found, err := readJournalIdentity(cfg)
	if err != nil {
		return nil, err
	}
	if found.Volume != id.Volume || found.Journal != id.Journal {
		return nil, &CorruptError{File: journalFile, What: "journal's identity", Wanted: fmt.Sprintf("journal %s of volume %s", id.Journal, id.Volume),
			Found: fmt.Sprintf("journal %s of volume %s", found.Journal, found.Volume), Kind: ErrForeign}
	}
	// Copies of a store's directory have locks of their own, and the same
	// journal.
	return lockFileOf(cfg, journalLockFile)
}

// bothLocks are the locks of a store and of its journal's directory, which go
// in the reverse order.
type bothLocks struct{ store, journal io.Closer }

// Close lets go of them.
func (l bothLocks) Close() error {
	if l.journal == nil {
		return l.store.Close()
	}
	return errors.Join(l.journal.Close(), l.store.Close())
}

// holdsJournal reports whether a file is one of a journal's.
func holdsJournal(name string) bool {
	_, segment := parseSegmentName(name)
	return segment || isRewritten(name) || strings.HasSuffix(name, runSuffix) || strings.HasSuffix(name, runSuffix+tempSuffix)
}

// takeJournalDir makes the directory of a new store's journal, draws its id and
// locks it. ErrForeign if it holds anything but what an earlier creation of this
// store left, which volume.json.tmp tells: then it may be another store's.
func (im *Import) takeJournalDir() error {
	cfg := &im.cfg
	var err error
	if im.journal, err = newJournalID(cfg.Random); err != nil {
		return err
	}
	if err := cfg.FS.MkdirAll(cfg.JournalDir); err != nil {
		return err
	}
	lock, err := lockFileOf(cfg, journalLockFile)
	if err != nil {
		return err
	}
	im.lock = bothLocks{store: im.lock, journal: lock}
	names, err := cfg.FS.ReadDir(cfg.JournalDir)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(names, holdsJournal) {
		return fmt.Errorf("journal directory %s holds segments: %w", cfg.JournalDir, ErrForeign)
	}
	found, err := readJournalIdentity(cfg)
	if errors.Is(err, ErrNoJournal) {
		return nil
	}
	if err != nil {
		return err
	}
	begun, err := readUnfinished(cfg)
	if err == nil && begun.Volume == found.Volume && begun.Journal == found.Journal {
		return nil
	}
	return errors.Join(fmt.Errorf("journal directory %s is of journal %s of volume %s: %w", cfg.JournalDir, found.Journal, found.Volume, ErrForeign), err)
}

// writeJournalIdentity binds the journal's directory to the store that is being
// made; durable on return. By then volume.json.tmp says whose it is.
func (im *Import) writeJournalIdentity() error {
	b, err := newJournalIdentity(im.spec.Volume, im.journal).encode()
	if err == nil {
		err = im.cfg.FS.SyncDir(im.cfg.Dir)
	}
	if err == nil {
		err = writeTemp(&im.cfg, journalFile, b)
	}
	if err == nil {
		err = publish(&im.cfg, journalFile)
	}
	return err
}

// readUnfinished reads the identity that an unfinished creation was about to
// give the store; a zero one if there is none.
func readUnfinished(cfg *Config) (identity, error) {
	b, err := readSmall(cfg, volumeFile+tempSuffix)
	if errors.Is(err, vfs.ErrNotExist) {
		return identity{}, nil
	}
	if err != nil {
		return identity{}, err
	}
	return decodeIdentity(b)
}

// clearJournalDir removes what an unfinished creation left in the journal's
// directory, durably: volume.json.tmp, which says whose that is, goes after it.
func (im *Import) clearJournalDir() error {
	fs, cfg := im.cfg.FS, &im.cfg
	for _, left := range []string{journalFile + tempSuffix, journalFile} {
		if err := fs.RemoveAll(cfg.file(left)); err != nil {
			return err
		}
	}
	return fs.SyncDir(cfg.JournalDir)
}

// RemoveJournal removes a directory that is, or was to become, the journal of a
// store of this volume; no error if there is none. ErrForeign, and nothing is
// changed, if it may be another volume's; ErrInUse if its store is open. Files
// that are no journal's stay, and are an error.
func RemoveJournal(fs vfs.FS, dir string, volume VolumeID) error {
	cfg := Config{FS: fs, Dir: path.Join(dir, ".."), JournalDir: dir}
	names, err := fs.ReadDir(dir)
	if errors.Is(err, vfs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove journal directory: %w", err)
	}
	found, err := readJournalIdentity(&cfg)
	switch {
	case errors.Is(err, ErrNoJournal) && !slices.ContainsFunc(names, holdsJournal):
	case errors.Is(err, ErrNoJournal), err == nil && found.Volume != volume:
		return fmt.Errorf("remove journal directory %s of volume %s: %w", dir, volume, ErrForeign)
	case err != nil:
		return fmt.Errorf("remove journal directory: %w", err)
	}
	lock, err := lockFileOf(&cfg, journalLockFile)
	if err != nil {
		return fmt.Errorf("remove journal directory: %w", err)
	}
	return errors.Join(removeLocked(fs, dir), lock.Close())
}

// removeLocked removes the identity behind everything else, so that what a crash
// leaves is known for what it is.
func removeLocked(fs vfs.FS, dir string) error {
	names, err := fs.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("remove journal directory: %w", err)
	}
	remove := func(which func(name string) bool) error {
		for _, name := range names {
			if which(name) {
				if err := fs.Remove(path.Join(dir, name)); err != nil {
					return fmt.Errorf("remove journal directory: %w", err)
				}
			}
		}
		return nil
	}
	err = remove(holdsJournal)
	if err == nil {
		err = fs.SyncDir(dir)
	}
	if err == nil {
		err = remove(func(name string) bool {
			return strings.TrimSuffix(name, tempSuffix) == path.Base(journalFile) || name == lockFile
		})
	}
	if err == nil {
		err = fs.Remove(dir)
	}
	return err
}
