package site

import (
	"context"
	"fmt"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// A whole image that finds no room is given up, and its source would begin anew a second
// later: that sends it in vain, and takes the room of everybody else on the file system
// for as long. So it is refused before anything is sent, until there is more room than
// there was or some time has passed.

const (
	// imageRetry is how long an image that found no room is refused.
	imageRetry = 10 * time.Minute
	// imageHope is how much more room makes it worth another attempt.
	imageHope = 64 << 20
)

// failedImage is one that found no room. Guarded by Site.mu.
type failedImage struct {
	at   time.Time
	free int64 // bytes, before it began
}

// imageWorthwhile returns why an image is not to be begun, a journal.ErrFull, and what is
// free before it begins.
func (s *Site) imageWorthwhile(id journal.VolumeID) (free int64, err error) {
	_, free, spaceErr := s.cfg.FS.Space(s.cfg.Root)
	s.mu.Lock()
	defer s.mu.Unlock()
	last, failed := s.failedImages[id]
	if !failed || spaceErr != nil || s.cfg.Clock.Now().Sub(last.at) >= imageRetry || free >= last.free+imageHope {
		return free, nil
	}
	return free, fmt.Errorf("an image of volume %s has found no room at %s, with %d bytes free before it, and there is no more now: %w", id, last.at.UTC().Format(time.RFC3339), last.free, journal.ErrFull)
}

// noteImage remembers what became of an image.
func (im *replicaImport) noteImage(err error) error {
	s, id := im.site, im.volume.record.ID
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case isFull(err):
		s.failedImages[id] = failedImage{s.cfg.Clock.Now(), im.free}
	case err == nil:
		delete(s.failedImages, id)
	}
	return err
}

// WriteAt implements replication.Import.
func (im *replicaImport) WriteAt(p []byte, off int64) error {
	err := im.Import.WriteAt(p, off)
	if err != nil {
		return im.noteImage(err)
	}
	return nil
}

// Commit implements replication.Import.
func (im *replicaImport) Commit(ctx context.Context) (replication.ReplicaStore, error) {
	store, err := im.commit(ctx)
	return store, im.noteImage(err)
}
