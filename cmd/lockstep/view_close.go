package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// viewClosedDocument is the output of `lockstep view close`.
type viewClosedDocument struct {
	ID string `json:"id"`
}

func (a *app) newViewCloseCommand() *cobra.Command {
	var admin adminFlags
	var output outputFlag
	command := &cobra.Command{
		Use:   "close VIEW",
		Short: "Close a view and its exports",
		Args:  wantArgs("VIEW"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			return admin.withSite(func(s *site) error {
				if _, err := s.CloseView(command.Context(), &adminv1.CloseViewRequest{Id: args[0]}); err != nil {
					return err
				}
				return a.print(&output, result{
					document: viewClosedDocument{args[0]},
					names:    []string{args[0]},
					show:     func(p *page) { p.line("view %s closed", args[0]) },
				})
			})
		}),
	}
	admin.register(a, command)
	output.register(command)
	return command
}
