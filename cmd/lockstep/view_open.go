package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// viewOpenedDocument is the output of `lockstep view open`.
type viewOpenedDocument struct {
	View viewDocument `json:"view"`
}

func (a *app) newViewOpenCommand() *cobra.Command {
	var admin adminFlags
	var output outputFlag
	var at string
	var forward bool
	command := &cobra.Command{
		Use:   "open GROUP",
		Short: "Open every member read-only at one moment, over NBD",
		Long: `Opens a view: every member of the group read-only, as it was at one recovery
point, each as an NBD export on a Unix socket. Nothing is copied and the group
runs on. A view that is open keeps its point; close it when done.`,
		Example: `  lockstep view open shop --at 2026-11-22T10:41:07Z
  qemu-img convert -O raw "$(lockstep view open shop -o json | jq -r '.view.exports[0].nbdURI')" pgdata.img`,
		Args:              wantArgs("GROUP"),
		ValidArgsFunction: a.completeGroups(&admin),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			point, err := parseAt(at)
			if err != nil {
				return err
			}
			return admin.withSite(func(s *site) error {
				group, err := s.group(command.Context(), args[0])
				if err != nil {
					return err
				}
				stop := a.progress("opening a view of " + args[0])
				answer, err := s.OpenView(command.Context(), &adminv1.OpenViewRequest{Group: group, At: point})
				stop()
				switch {
				case err != nil:
					return err
				case forward:
					return a.openForwarded(command.Context(), &output, &admin, answer.GetView())
				}
				err = a.printOpenedView(&output, &admin, answer.GetView())
				if err == nil && a.isPlugin() && output.forPeople() {
					a.hintForward(command.Context(), answer.GetView())
				}
				return err
			})
		}),
	}
	admin.register(a, command)
	output.register(command)
	registerAt(command, &at, atLatest, "moment to open")
	if a.isPlugin() {
		command.Flags().BoolVar(&forward, "forward", false, "show the images on ports of this machine, until interrupted")
		command.Long = `Opens a view: every member of the group read-only, as it was at one recovery
point, each as an NBD export on port 10809 of its engine's pod. Nothing is copied
and the group runs on. A view that is open keeps its point and its engines; close
it when done.

With --forward each image also has a port of this machine's loopback interface,
which everyone on this machine can use, until the command is interrupted.`
		command.Example = `  kubectl lockstep view open shop --at 2026-11-22T10:41:07Z --forward
  qemu-img convert -O raw nbd://127.0.0.1:PORT/EXPORT pgdata.img`
	}
	return command
}

func (a *app) printOpenedView(output *outputFlag, admin *adminFlags, view *adminv1.View) error {
	err := a.print(output, result{
		document: viewOpenedDocument{viewOf(view)},
		names:    []string{view.GetId()},
		show: func(p *page) {
			p.fields([]field{
				{"View", text(view.GetId())},
				{"Group", text(view.GetGroup())},
				{"Point", text(pointText(p.now, view.GetPoint()))},
				{"Opened in", text(spanOf(view.GetTook()))},
			})
			p.line("")
			p.showExports("", view.GetExports())
		},
	})
	if err == nil && output.forPeople() {
		a.hint("when done: %s", a.suggest(admin, "view close "+view.GetId()))
	}
	return err
}
