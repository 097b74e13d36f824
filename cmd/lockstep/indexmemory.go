package main

import (
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/lockstep-csi/lockstep/journal"
)

// defaultIndexMemory is journal.DefaultIndexMemory as a flag says it.
const defaultIndexMemory = "128Mi"

func registerIndexMemory(flags *pflag.FlagSet, text *string) {
	flags.StringVar(text, "index-memory", defaultIndexMemory, "memory for the index of each volume, at least 1Mi; what does not fit is read from disk")
}

// parseIndexMemory reads the flag, in bytes.
func parseIndexMemory(text string) (int64, error) {
	quantity, err := resource.ParseQuantity(text)
	if err != nil {
		return 0, misuse("--index-memory %q: want bytes such as 134217728, 128Mi or 128M", text)
	}
	n, exact := quantity.AsInt64()
	if !exact || n < journal.MinIndexMemory {
		return 0, misuse("--index-memory %q: want a whole number of bytes, at least %d", text, int64(journal.MinIndexMemory))
	}
	return n, nil
}
