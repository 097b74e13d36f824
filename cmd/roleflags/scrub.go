package roleflags

import (
	"time"

	"github.com/spf13/pflag"

	"github.com/lockstep-csi/lockstep/journal"
)

// ScrubEvery is the flag --scrub-every of what opens stores.
type ScrubEvery struct{ period time.Duration }

// Register adds the flag.
func (s *ScrubEvery) Register(flags *pflag.FlagSet) {
	flags.DurationVar(&s.period, "scrub-every", journal.DefaultScrubEvery, "time in which all that a volume's store holds is read once, to find damage; at least 1m")
}

// Period reads the flag's value; a UsageError if it is too short.
func (s *ScrubEvery) Period() (time.Duration, error) {
	if s.period < journal.MinScrubEvery {
		return 0, Misuse("--scrub-every %s: want at least %s", s.period, journal.MinScrubEvery)
	}
	return s.period, nil
}
