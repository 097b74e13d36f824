package roleflags

import (
	"strconv"
	"strings"

	"github.com/spf13/pflag"

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
	n, ok := parseBytes(m.text)
	if !ok {
		return 0, Misuse("--index-memory %q: want bytes such as 134217728, 128Mi or 128M", m.text)
	}
	if n < journal.MinIndexMemory {
		return 0, Misuse("--index-memory %q: want a whole number of bytes, at least %d", m.text, int64(journal.MinIndexMemory))
	}
	return n, nil
}

// units are the suffixes of Kubernetes' quantities that are of use here; its
// parser is not linked into engines.
var units = []struct {
	suffix string
	bytes  int64
}{{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"", 1}}

func parseBytes(text string) (n int64, ok bool) {
	for _, u := range units {
		number, found := strings.CutSuffix(text, u.suffix)
		if !found {
			continue
		}
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n < 0 || n > (1<<62)/u.bytes {
			return 0, false
		}
		return n * u.bytes, true
	}
	return 0, false
}
