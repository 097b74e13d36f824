package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// viewsDocument is the output of `lockstep view list`.
type viewsDocument struct {
	Views []viewDocument `json:"views"`
}

func (a *app) newViewListCommand() *cobra.Command {
	var admin adminFlags
	var output outputFlag
	var group string
	command := &cobra.Command{
		Use:   "list",
		Short: "List open views",
		Args:  wantArgs(),
		RunE: a.runs(func(command *cobra.Command, _ []string) error {
			return admin.withSite(func(s *site) error {
				name, err := s.groupIfAny(command.Context(), group)
				if err != nil {
					return err
				}
				answer, err := s.ListViews(command.Context(), &adminv1.ListViewsRequest{Group: name})
				if err != nil {
					return err
				}
				views := answer.GetViews()
				if len(views) == 0 && output.forPeople() {
					a.hint("no views are open%s", ofGroup(group))
					return nil
				}
				r := result{
					document: viewsDocument{each(views, viewOf)},
					show:     func(p *page) { p.showViews(views) },
				}
				for _, view := range views {
					r.names = append(r.names, view.GetId())
				}
				return a.print(&output, r)
			})
		}),
	}
	admin.register(a, command)
	output.register(command)
	command.Flags().StringVar(&group, "group", "", "only views of this group")
	return command
}

// showViews writes one row for each export, so that every URI can be copied.
func (p *page) showViews(views []*adminv1.View) {
	columns := []column{left("VIEW"), left("GROUP"), right("CHECKPOINT"), left("TIME"), right("AGE"), left("VOLUME"), left("NBD URI")}
	var rows [][]cell
	for _, view := range views {
		point := view.GetPoint()
		exports := view.GetExports()
		if len(exports) == 0 {
			exports = []*adminv1.ViewExport{nil}
		}
		for _, e := range exports {
			rows = append(rows, []cell{
				text(view.GetId()), text(view.GetGroup()), text(checkpointCell(point)), text(moment(point.GetTime())), text(age(p.now, point.GetTime())),
				text(exportVolume(e)), text(e.GetNbdUri()),
			})
		}
	}
	p.table("", columns, rows)
}
