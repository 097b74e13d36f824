package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// checkDocument is the output of `lockstep check`.
type checkDocument struct {
	Ready  bool              `json:"ready"`
	Checks []findingDocument `json:"checks"`
}

type findingDocument struct {
	Name     string `json:"name"`
	OK       bool   `json:"ok"`
	Required bool   `json:"required"`
	Found    string `json:"found"`
	Remedy   string `json:"remedy"`
}

func (a *app) newCheckCommand() *cobra.Command {
	if a.isPlugin() {
		return a.parent("check", "Check whether a cluster can serve volumes", a.newPreflightCommand())
	}
	var output outputFlag
	command := &cobra.Command{
		Use:   "check",
		Short: "Check whether this host can serve volumes",
		Long: `Looks for what a node needs: privileges, devices, kernel features and tools. It
changes nothing, and fails (exit status 1) when something required is missing.`,
		Args: wantArgs(),
		RunE: a.runs(func(*cobra.Command, []string) error {
			document := a.host.check()
			r := result{document: document, show: func(p *page) { p.showChecks(document) }}
			var missing []string
			for _, f := range document.Checks {
				if f.OK {
					continue
				}
				r.names = append(r.names, f.Name)
				if f.Required {
					missing = append(missing, f.Name)
				}
			}
			if err := a.print(&output, r); err != nil {
				return err
			}
			if len(missing) > 0 {
				return fmt.Errorf("this host cannot serve volumes, it lacks: %s", strings.Join(missing, ", "))
			}
			return nil
		}),
	}
	output.register(command)
	return command
}

func (p *page) showChecks(document checkDocument) {
	columns := []column{left("CHECK"), left("RESULT"), left("FOUND"), left("REMEDY")}
	var rows [][]cell
	for _, f := range document.Checks {
		outcome, remedy := cell{"ok", toneGood}, cell{}
		switch {
		case !f.OK && f.Required:
			outcome, remedy = cell{"MISSING", toneBad}, text(f.Remedy)
		case !f.OK:
			outcome, remedy = cell{"optional", toneNote}, text(f.Remedy)
		}
		rows = append(rows, []cell{text(f.Name), outcome, text(f.Found), remedy})
	}
	p.table("", columns, rows)
}
