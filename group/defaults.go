package group

import (
	"fmt"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
)

// Defaults and bounds of Settings.
const (
	DefaultCheckpointInterval = time.Second
	MinCheckpointInterval     = 100 * time.Millisecond
	DefaultBarrierTimeout     = 50 * time.Millisecond
	MaxBarrierTimeout         = 10 * time.Second
)

// DefaultHistory is the History of a group that is given neither that nor a Window:
// every checkpoint for an hour, one a minute for a day, one an hour for a week. The
// first tier's interval only has to be one that checkpoints are not closer than.
func DefaultHistory(checkpointInterval time.Duration) string {
	if checkpointInterval < DefaultCheckpointInterval {
		return "100ms:1h,1m:24h,1h:7d"
	}
	return "1s:1h,1m:24h,1h:7d"
}

// WithDefaults fills in what is zero. A Window without a History stays so: then every
// checkpoint is kept for it.
func (s Settings) WithDefaults() Settings {
	if s.CheckpointInterval == 0 {
		s.CheckpointInterval = DefaultCheckpointInterval
	}
	if s.BarrierTimeout == 0 {
		s.BarrierTimeout = DefaultBarrierTimeout
	}
	if s.Window == 0 {
		if s.History == "" {
			s.History = DefaultHistory(s.CheckpointInterval)
		}
		if h, err := journal.ParseHistory(s.History); err == nil && len(h) > 0 {
			s.Window = h.Window()
		}
	}
	return s
}

// Validate checks settings that have their defaults.
func (s Settings) Validate() error {
	history, err := journal.ParseHistory(s.History)
	switch {
	case err != nil:
		return err
	case len(history) > 0 && history[0].Interval > s.CheckpointInterval:
		return fmt.Errorf("history %q begins with %v, which is longer than the checkpoint interval %v: the first tier keeps every checkpoint", s.History, history[0].Interval, s.CheckpointInterval)
	case len(history) > 0 && history.Window() != s.Window:
		return fmt.Errorf("window %v is not the last age of history %q, which says both", s.Window, s.History)
	case s.CheckpointInterval < MinCheckpointInterval:
		return fmt.Errorf("checkpoint interval %v is below %v", s.CheckpointInterval, MinCheckpointInterval)
	case s.BarrierTimeout <= 0 || s.BarrierTimeout > MaxBarrierTimeout:
		return fmt.Errorf("barrier timeout %v is not above zero and at most %v", s.BarrierTimeout, MaxBarrierTimeout)
	case s.Window < s.CheckpointInterval:
		return fmt.Errorf("window %v is shorter than the checkpoint interval %v", s.Window, s.CheckpointInterval)
	case s.JournalBytes < 0:
		return fmt.Errorf("journal size %d is negative", s.JournalBytes)
	}
	return nil
}
