package journal

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// Names below a store's directory.
const (
	volumeFile  = "volume.json"
	lockFile    = "lock"
	baseFile    = "base.img"
	catalogFile = "catalog.db"
	journalDir  = "journal"

	// Only of a journal in a directory of its own.
	journalFile     = journalDir + "/journal.json"
	journalLockFile = journalDir + "/" + lockFile

	tempSuffix = ".tmp" // of a file whose writing has not ended
)

func segmentName(id segmentID) string {
	return path.Join(journalDir, fmt.Sprintf("%016x.seg", uint64(id)))
}

// parseSegmentName reads the base name of a segment file.
func parseSegmentName(base string) (segmentID, bool) {
	digits, ok := strings.CutSuffix(base, ".seg")
	if !ok || len(digits) != 16 {
		return 0, false
	}
	id, err := strconv.ParseUint(digits, 16, 64)
	return segmentID(id), err == nil && id > 0 && id <= maxSegmentID
}
