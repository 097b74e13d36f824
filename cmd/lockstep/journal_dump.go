package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-csi/lockstep/journal"
)

// Forms of `lockstep journal dump`. It streams, so it has no tables.
const (
	dumpText  = "text"
	dumpJSONL = "jsonl"
	dumpJSON  = "json" // the same, as the other commands call it
)

func (a *app) newJournalDumpCommand() *cobra.Command {
	var from, to, form string
	var options journal.DumpOptions
	var where storeFlags
	command := &cobra.Command{
		Use:   "dump STORE",
		Short: "Print what a store holds: identity, timelines, segments, and its records",
		Long: `Prints the identity, timelines and segments of a store, and with --records its
records, oldest first. Positions are TIMELINE/SEQ, as the command prints them. What is
damaged is printed where it is met, and then the exit status is 1.`,
		Args: wantArgs("STORE"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			store, err := where.store(args[0])
			if err != nil {
				return err
			}
			if err := wantOneOf("--output", form, dumpText, dumpJSON, dumpJSONL); err != nil {
				return err
			}
			if options.From, err = positionFlag("--from", from); err != nil {
				return err
			}
			if options.To, err = positionFlag("--to", to); err != nil {
				return err
			}
			options.JSON = form != dumpText
			options.Records = options.Records || from != "" || to != ""
			err = a.roles.dumpJournal(command.Context(), store, a.stdout, options)
			return explainInUse(err, "ask that site: `lockstep timeline list GROUP`, `lockstep point list GROUP`")
		}),
	}
	where.register(command)
	flags := command.Flags()
	flags.BoolVar(&options.Records, "records", false, "print the records as well")
	flags.StringVar(&from, "from", "", "position of the first record, inclusive; default: the oldest kept")
	flags.StringVar(&to, "to", "", "position of the last record, inclusive, on any timeline; default: the tip")
	flags.StringVarP(&form, "output", "o", dumpText, "form of the output: text, json or jsonl (one object a line)")
	return command
}

func positionFlag(flag, text string) (journal.Position, error) {
	if text == "" {
		return journal.Position{}, nil
	}
	pos, err := journal.ParsePosition(text)
	if err != nil {
		return journal.Position{}, misuse("%s: %v", flag, err)
	}
	return pos, nil
}

func wantOneOf(flag, value string, allowed ...string) error {
	if !slices.Contains(allowed, value) {
		return misuse("%s %q: want one of %s", flag, value, strings.Join(allowed, ", "))
	}
	return nil
}
