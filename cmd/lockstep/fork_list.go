package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// forksDocument is the output of `lockstep fork list`.
type forksDocument struct {
	Forks []forkDocument `json:"forks"`
}

func (a *app) newForkListCommand() *cobra.Command {
	var admin adminFlags
	var output outputFlag
	var group string
	command := &cobra.Command{
		Use:   "list",
		Short: "List forks, with what they take, and those that were given up",
		Long: `Lists writable forks. USED is what was written to a fork, of its quota, and HOLDS
the room of the journals that cannot be destaged while it is there. One that the
site has given up takes nothing, and stays listed for a week with the reason.`,
		Args: wantArgs(),
		RunE: a.runs(func(command *cobra.Command, _ []string) error {
			return admin.withSite(func(s *site) error {
				name, err := s.groupIfAny(command.Context(), group)
				if err != nil {
					return err
				}
				answer, err := s.ListForks(command.Context(), &adminv1.ListForksRequest{Group: name})
				if err != nil {
					return err
				}
				forks := answer.GetForks()
				if len(forks) == 0 && output.forPeople() {
					a.hint("there are no forks%s", ofGroup(group))
					return nil
				}
				r := result{
					document: forksDocument{each(forks, forkOf)},
					show:     func(p *page) { p.showForks(forks) },
				}
				for _, fork := range forks {
					r.names = append(r.names, fork.GetName())
				}
				return a.print(&output, r)
			})
		}),
	}
	admin.register(a, command)
	output.register(command)
	command.Flags().StringVar(&group, "group", "", "only forks of this group")
	return command
}

// showForks writes one row for each fork, and with -o wide one for each export.
func (p *page) showForks(forks []*adminv1.Fork) {
	columns := []column{left("FORK"), left("GROUP"), right("CHECKPOINT"), left("TIME"), right("AGE"), left("EXPIRES"), right("USED"), right("QUOTA"), right("FULL"), right("HOLDS"), wide(left("NBD URI")), left("STATE")}
	var rows [][]cell
	for _, f := range forks {
		exports := f.GetExports()
		if len(exports) == 0 || !p.wide {
			exports = []*adminv1.ViewExport{nil}
		}
		for _, e := range exports {
			rows = append(rows, []cell{
				text(f.GetName()), text(f.GetGroup()), text(checkpointCell(f.GetPoint())), text(moment(f.GetPoint().GetTime())), text(age(p.now, f.GetCreated())),
				text(moment(f.GetExpires())), text(iecSigned(f.GetUsedBytes())), text(iecSigned(f.GetQuotaBytes())), text(percent(f.GetUsedBytes(), f.GetQuotaBytes())),
				text(iecSigned(f.GetHeldBytes())), text(e.GetNbdUri()), forkState(f),
			})
		}
	}
	p.table("", columns, rows)
}

// ofGroup ends a sentence on what a list of one group, or of all, does not have.
func ofGroup(name string) string {
	if name == "" {
		return ""
	}
	return " of group " + name
}
