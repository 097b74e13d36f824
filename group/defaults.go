package group

import (
	"fmt"
	"time"
)

// Defaults and bounds of Settings.
const (
	DefaultCheckpointInterval = time.Second
	MinCheckpointInterval     = 100 * time.Millisecond
	DefaultBarrierTimeout     = 50 * time.Millisecond
	MaxBarrierTimeout         = 10 * time.Second
	DefaultWindow             = 24 * time.Hour
)

// WithDefaults fills in what is zero.
func (s Settings) WithDefaults() Settings {
	if s.CheckpointInterval == 0 {
		s.CheckpointInterval = DefaultCheckpointInterval
	}
	if s.BarrierTimeout == 0 {
		s.BarrierTimeout = DefaultBarrierTimeout
	}
	if s.Window == 0 {
		s.Window = DefaultWindow
	}
	return s
}

// Validate checks settings that have their defaults.
func (s Settings) Validate() error {
	switch {
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
