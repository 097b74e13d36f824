package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// verifyOutcome is what an offline check of a store found.
type verifyOutcome struct {
	// Fields are the figures, in the order to be shown: segments, records, …
	Fields []outcomeField
	// Problems are one sentence each; empty for a sound store. A torn tail,
	// which recovery handles, is a figure and not a problem.
	Problems []string
	// Document is what -o json and -o yaml print.
	Document any
}

type outcomeField struct{ Name, Value string }

func (a *app) newJournalVerifyCommand() *cobra.Command {
	var output outputFlag
	command := &cobra.Command{
		Use:   "verify STORE",
		Short: "Check every record, segment and index of a store",
		Long: `Reads a whole store and checks it. It fails (exit status 1) when anything before
the last durable point is damaged, and names each damaged place.`,
		Args: wantArgs("STORE"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			dir, err := storeDir(args[0])
			if err != nil {
				return err
			}
			stop := a.progress("verifying " + dir)
			outcome, err := a.roles.verifyJournal(command.Context(), dir)
			stop()
			if err != nil {
				return err
			}
			if err := a.print(&output, outcome.result(dir)); err != nil {
				return err
			}
			if n := len(outcome.Problems); n > 0 {
				return fmt.Errorf("store %s is damaged in %d places", dir, n)
			}
			return nil
		}),
	}
	output.register(command)
	return command
}

func (o verifyOutcome) result(dir string) result {
	return result{
		document: o.Document,
		names:    []string{dir},
		show: func(p *page) {
			state := cell{"sound", toneGood}
			if len(o.Problems) > 0 {
				state = cell{"DAMAGED", toneBad}
			}
			fields := []field{{"Store", text(dir)}, {"State", state}}
			for _, f := range o.Fields {
				fields = append(fields, field{f.Name, text(f.Value)})
			}
			p.fields(fields)
			for _, problem := range o.Problems {
				p.line("  %s", p.paint(cell{oneLine(problem), toneBad}))
			}
		},
	}
}
