package journal

import "time"

// Retention is how much history is kept.
type Retention struct {
	JournalBytes int64         // Config.JournalBytes
	Window       time.Duration // Config.Window
	History      History       // Config.History, valid
}

// SetRetention changes the configuration from the next maintenance on. Not
// durable: it is the caller's to remember.
func (s *Store) SetRetention(r Retention) {
	s.mu.Lock()
	s.cfg.JournalBytes, s.cfg.Window, s.cfg.History = r.JournalBytes, r.Window, r.History
	s.noteStreaming()
	s.mu.Unlock()
	s.letGo()
	s.wakeRun()
	wake(s.wakeThin)
}

// Retention returns how much history is kept. Its History must not be changed.
func (s *Store) Retention() Retention {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return Retention{s.cfg.JournalBytes, s.cfg.Window, s.cfg.History}
}

// DefaultBudget is the journal budget in bytes of a volume for which nobody
// chose one: the volume's size, and 1 GiB at least.
func DefaultBudget(sizeBytes int64) int64 { return max(1<<30, sizeBytes) }
