package journal

import "time"

// SetRetention changes Config.JournalBytes and Config.Window from the next
// maintenance on. Not durable: it is the caller's to remember.
func (s *Store) SetRetention(journalBytes int64, window time.Duration) {
	s.mu.Lock()
	s.cfg.JournalBytes, s.cfg.Window = journalBytes, window
	s.mu.Unlock()
	s.wakeRun()
}

// Retention returns what SetRetention has set.
func (s *Store) Retention() (journalBytes int64, window time.Duration) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.cfg.JournalBytes, s.cfg.Window
}

// DefaultBudget is the journal budget in bytes of a volume for which nobody
// chose one: the volume's size, and 1 GiB at least.
func DefaultBudget(sizeBytes int64) int64 { return max(1<<30, sizeBytes) }
