package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// pointDroppedDocument is the output of `lockstep point drop`.
type pointDroppedDocument struct {
	Point *pointDocument `json:"point"`
}

func (a *app) newPointDropCommand() *cobra.Command {
	var admin adminFlags
	var output outputFlag
	command := &cobra.Command{
		Use:   "drop GROUP PIN",
		Short: "Let go of a name that `point take --pin` gave",
		Long: `Lets go of a pin. The point itself stays for as long as the window does. Pins of
CSI snapshots go with their snapshots.`,
		Args:              wantArgs("GROUP", "PIN"),
		ValidArgsFunction: a.completeGroups(&admin),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			return admin.withSite(func(s *site) error {
				group, err := s.group(command.Context(), args[0])
				if err != nil {
					return err
				}
				answer, err := s.DropPin(command.Context(), &adminv1.DropPinRequest{Group: group, Pin: args[1]})
				if err != nil {
					return err
				}
				point := answer.GetPoint()
				return a.print(&output, result{
					document: pointDroppedDocument{pointOf(point)},
					names:    []string{checkpointName(point)},
					show: func(p *page) {
						p.line("group %s: checkpoint %d of %s is no longer pinned as %s", args[0], point.GetCheckpoint(), moment(point.GetTime()), args[1])
					},
				})
			})
		}),
	}
	admin.register(a, command)
	output.register(command)
	return command
}
