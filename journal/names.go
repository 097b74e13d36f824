package journal

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// Names below a store's directory.
const (
	volumeFile  = "volume.json"
	lockFile    = "lock"
	baseFile    = "base.img"
	catalogFile = "catalog.db"
	journalDir  = "journal"
	// baseSumsFile has the checksums of the base's sectors.
	baseSumsFile = "base.crc"

	// Only of a journal in a directory of its own.
	journalFile     = journalDir + "/journal.json"
	journalLockFile = journalDir + "/" + lockFile

	tempSuffix = ".tmp" // of a file whose writing has not ended
)

// UnfinishedNames are the names that an import which was interrupted can leave in a
// store's directory, but for the base image's: no directory that has others is to
// be imported into.
func UnfinishedNames() []string {
	return []string{lockFile, baseSumsFile, catalogFile, catalogFile + ".new", journalDir, volumeFile + ".tmp"}
}

// IsStore reports whether a directory is a store, whatever state it is in.
func IsStore(fs vfs.FS, dir string) bool {
	is, err := FindStore(fs, dir)
	return is && err == nil
}

// FindStore is IsStore, with an error where the file system does not tell.
func FindStore(fs vfs.FS, dir string) (bool, error) {
	_, err := fs.Stat(path.Join(dir, volumeFile))
	if errors.Is(err, vfs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// BasePath is where the store in a directory keeps its base image.
func BasePath(dir string) string { return path.Join(dir, baseFile) }

func segmentName(id segmentID) string {
	return path.Join(journalDir, fmt.Sprintf("%016x.seg", uint64(id)))
}

// rewrittenName is the file of a segment that thinning has made.
func rewrittenName(id segmentID, generation uint32) string {
	return path.Join(journalDir, fmt.Sprintf("%016x-%08x%s", uint64(id), generation, rewrittenSuffix))
}

const rewrittenSuffix = ".thin"

// fileOf is the file of a segment of a generation.
func fileOf(id segmentID, generation uint32) string {
	if generation > 0 {
		return rewrittenName(id, generation)
	}
	return segmentName(id)
}

// isRewritten reports whether a base name is that of a file that thinning made.
func isRewritten(base string) bool { return strings.HasSuffix(base, rewrittenSuffix) }

// parseSegmentName reads the base name of a segment file.
func parseSegmentName(base string) (segmentID, bool) {
	digits, ok := strings.CutSuffix(base, ".seg")
	if !ok || len(digits) != 16 {
		return 0, false
	}
	id, err := strconv.ParseUint(digits, 16, 64)
	return segmentID(id), err == nil && id > 0 && id <= maxSegmentID
}
