package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// forkDiscardedDocument is the output of `lockstep fork discard`.
type forkDiscardedDocument struct {
	Name string `json:"name"`
}

func (a *app) newForkDiscardCommand() *cobra.Command {
	var admin adminFlags
	var output outputFlag
	command := &cobra.Command{
		Use:   "discard NAME",
		Short: "Throw a fork away, with everything that was written to it",
		Long: `Throws a fork away, with everything that was written to it. Whoever has one of its
exports open is cut off: unmount it first. The group is not touched.`,
		Args: wantArgs("NAME"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			return admin.withSite(func(s *site) error {
				if _, err := s.DiscardFork(command.Context(), &adminv1.DiscardForkRequest{Name: args[0]}); err != nil {
					return err
				}
				return a.print(&output, result{
					document: forkDiscardedDocument{args[0]},
					names:    []string{args[0]},
					show:     func(p *page) { p.line("fork %s discarded", args[0]) },
				})
			})
		}),
	}
	admin.register(a, command)
	output.register(command)
	return command
}
