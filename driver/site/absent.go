package site

import (
	"context"
	"fmt"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
)

// absentMember stands for a member whose store is not open. It makes every
// checkpoint round fail with the reason, because a recovery point without that
// member would be none.
type absentMember struct {
	id  journal.VolumeID
	why error
}

func (m absentMember) Volume() journal.VolumeID { return m.id }
func (m absentMember) Dirty() bool              { return false }
func (m absentMember) Abort(uint64)             {}

func (m absentMember) Prepare(context.Context, uint64, time.Duration) error {
	return fmt.Errorf("member is not open: %w", m.why)
}

func (m absentMember) Commit(uint64, journal.Checkpoint) (journal.Position, error) {
	return journal.Position{}, m.why
}

func (m absentMember) Flush(context.Context) error { return m.why }
