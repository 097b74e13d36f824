package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// Forms of `lockstep journal dump`. It streams, so it has no tables.
const (
	dumpText  = "text"
	dumpJSONL = "jsonl"
)

// What to show of a record's data.
const (
	dumpNoData  = "none"
	dumpSumData = "crc"
	dumpHexData = "hex"
)

// dumpOptions choose what `lockstep journal dump` writes.
type dumpOptions struct {
	// Timeline to dump; 0: the active one, with the path that leads to it.
	Timeline uint64
	// From and To are seqs, inclusive; 0: from the first, to the last.
	From, To uint64
	// Limit is how many records at most; 0: no limit.
	Limit uint64
	// CheckpointsOnly leaves out all other records.
	CheckpointsOnly bool
	// Data is none, crc or hex.
	Data string
	// JSONL writes one JSON object a line in the place of text.
	JSONL bool
}

func (a *app) newJournalDumpCommand() *cobra.Command {
	var options dumpOptions
	var form string
	command := &cobra.Command{
		Use:   "dump STORE",
		Short: "Print the records of a store, oldest first",
		Args:  wantArgs("STORE"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			dir, err := storeDir(args[0])
			if err != nil {
				return err
			}
			if err := wantOneOf("--output", form, dumpText, dumpJSONL); err != nil {
				return err
			}
			if err := wantOneOf("--data", options.Data, dumpNoData, dumpSumData, dumpHexData); err != nil {
				return err
			}
			if options.To != 0 && options.From > options.To {
				return misuse("--from %d comes after --to %d", options.From, options.To)
			}
			options.JSONL = form == dumpJSONL
			return a.roles.dumpJournal(command.Context(), dir, a.stdout, options)
		}),
	}
	flags := command.Flags()
	flags.Uint64Var(&options.Timeline, "timeline", 0, "timeline to print; 0: the active one")
	flags.Uint64Var(&options.From, "from", 0, "first seq, inclusive")
	flags.Uint64Var(&options.To, "to", 0, "last seq, inclusive; 0: to the end")
	flags.Uint64Var(&options.Limit, "limit", 0, "how many records at most; 0: all")
	flags.BoolVar(&options.CheckpointsOnly, "checkpoints", false, "checkpoint records only")
	flags.StringVar(&options.Data, "data", dumpNoData, "what to print of the data: none, crc, hex")
	flags.StringVarP(&form, "output", "o", dumpText, "form of the output: text, jsonl (one object a line)")
	return command
}

func wantOneOf(flag, value string, allowed ...string) error {
	if !slices.Contains(allowed, value) {
		return misuse("%s %q: want one of %s", flag, value, strings.Join(allowed, ", "))
	}
	return nil
}
