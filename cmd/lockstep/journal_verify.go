package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lockstep-csi/lockstep/journal"
)

func (a *app) newJournalVerifyCommand() *cobra.Command {
	var output outputFlag
	var where storeFlags
	command := &cobra.Command{
		Use:   "verify STORE",
		Short: "Check every record, segment and index of a store",
		Long: `Reads a whole store and checks it. It fails (exit status 1) when anything before
the last durable point is damaged, and names each damaged place.`,
		Args: wantArgs("STORE"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			store, err := where.store(args[0])
			if err != nil {
				return err
			}
			stop := a.progress("verifying " + store.Dir)
			report, err := a.roles.verifyJournal(command.Context(), store)
			stop()
			if err != nil {
				return explainInUse(err, "have that site check it: `lockstep volume scrub VOLUME`")
			}
			if err := a.print(&output, verifyResult(&report)); err != nil {
				return err
			}
			if n := len(report.Damage); n > 0 {
				return fmt.Errorf("store %s is damaged in %d places", store.Dir, n)
			}
			return nil
		}),
	}
	output.register(command)
	where.register(command)
	return command
}

func verifyResult(r *journal.Report) result {
	return result{
		document: r,
		names:    []string{r.Dir},
		show: func(p *page) {
			state := cell{"sound", toneGood}
			if !r.OK() {
				state = cell{"DAMAGED", toneBad}
			}
			records, checkpoints := 0, 0
			for _, s := range r.Segments {
				records, checkpoints = records+s.Records, checkpoints+s.Checkpoints
			}
			closed := "no: the next open recovers it"
			if r.Clean {
				closed = "yes"
			}
			p.fields([]field{
				{"Store", text(r.Dir)}, {"State", state}, {"Volume", text(r.Volume)}, {"Closed cleanly", text(closed)},
				{"Tip", text(r.Tip)}, {"Horizon", text(r.Horizon)}, {"Timelines", text(fmt.Sprint(len(r.Timelines)))},
				{"Segments", text(fmt.Sprint(len(r.Segments)))}, {"Records", text(fmt.Sprint(records))}, {"Checkpoints", text(fmt.Sprint(checkpoints))},
			})
			for _, run := range r.IndexRuns {
				if run.Damage != "" {
					p.line("  %s", oneLine(fmt.Sprintf("%s is made again when it is needed: %s", run.File, run.Damage)))
				}
			}
			for _, d := range r.Damage {
				p.line("  %s", p.paint(cell{oneLine(damageText(d)), toneBad}))
			}
		},
	}
}
