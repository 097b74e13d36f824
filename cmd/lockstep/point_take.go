package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// pointTakenDocument is the output of `lockstep point take`.
type pointTakenDocument struct {
	Point *pointDocument `json:"point"`
	Stall *string        `json:"stall"`
}

func (a *app) newPointTakeCommand() *cobra.Command {
	var admin adminFlags
	var output outputFlag
	var pin string
	command := &cobra.Command{
		Use:   "take GROUP",
		Short: "Take a checkpoint now, and keep it when it is given a name",
		Example: `  lockstep point take shop --pin before-upgrade
  lockstep rewind start shop --at pin:before-upgrade`,
		Args:              wantArgs("GROUP"),
		ValidArgsFunction: a.completeGroups(&admin),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			if command.Flags().Changed("pin") && pin == "" {
				return misuse("--pin is empty: leave it out to take a point that the window lets go")
			}
			return admin.withSite(func(s *site) error {
				group, err := s.group(command.Context(), args[0])
				if err != nil {
					return err
				}
				answer, err := s.TakePoint(command.Context(), &adminv1.TakePointRequest{Group: group, Pin: pin})
				if err != nil {
					return err
				}
				point := answer.GetPoint()
				return a.print(&output, result{
					document: pointTakenDocument{pointOf(point), durationText(answer.GetStall())},
					names:    []string{checkpointName(point)},
					show: func(p *page) {
						kept := ""
						if pin != "" {
							kept = " pinned as " + pin + ";"
						}
						p.line("group %s: checkpoint %d of %s taken;%s writes waited %s", args[0], point.GetCheckpoint(), moment(point.GetTime()), kept, spanOf(answer.GetStall()))
					},
				})
			})
		}),
	}
	admin.register(a, command)
	output.register(command)
	command.Flags().StringVar(&pin, "pin", "", "name that keeps the point after it leaves the window")
	return command
}
