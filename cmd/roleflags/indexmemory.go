package roleflags

import (
	"github.com/spf13/pflag"

	"github.com/lockstep-csi/lockstep/internal/bytesize"
	"github.com/lockstep-csi/lockstep/journal"
)

// defaultIndexMemory is journal.DefaultIndexMemory as a flag says it.
const defaultIndexMemory = "128Mi"

// IndexMemory is the flag --index-memory of what opens stores.
type IndexMemory struct{ text string }

// Register adds the flag.
func (m *IndexMemory) Register(flags *pflag.FlagSet) {
	flags.StringVar(&m.text, "index-memory", defaultIndexMemory, "memory for the index of each volume, at least 1Mi; what does not fit is read from disk")
}

// Bytes reads the flag's value; a UsageError if it is no size or too small.
func (m *IndexMemory) Bytes() (int64, error) {
	n, err := bytesize.Parse(m.text)
	if err != nil {
		return 0, Misuse("--index-memory %q: %v", m.text, err)
	}
	if n < journal.MinIndexMemory {
		return 0, Misuse("--index-memory %q: want a whole number of bytes, at least %d", m.text, int64(journal.MinIndexMemory))
	}
	return n, nil
}
