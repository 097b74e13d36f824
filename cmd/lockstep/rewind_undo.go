package main

import (
	"context"

	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// rewindUndoneDocument is the output of `lockstep rewind undo`.
type rewindUndoneDocument struct {
	To     *pointDocument `json:"to"`
	Took   *string        `json:"took"`
	DryRun bool           `json:"dryRun"`
}

func (a *app) newRewindUndoCommand() *cobra.Command {
	var f rewindFlags
	var dryRun bool
	command := &cobra.Command{
		Use:   "undo GROUP",
		Short: "Return to where the group was before its rewind",
		Args:  wantArgs("GROUP"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			request := &adminv1.UndoRewindRequest{Group: args[0], DryRun: dryRun}
			return f.admin.withSite(func(s *site) error { return a.undoRewind(command.Context(), s, &f, request) })
		}),
	}
	registerDryRun(command, &dryRun)
	f.register(a, command)
	return command
}

func (a *app) undoRewind(ctx context.Context, s *site, f *rewindFlags, request *adminv1.UndoRewindRequest) error {
	stop := a.progress("undoing the rewind of " + request.GetGroup())
	answer, err := s.UndoRewind(ctx, request)
	stop()
	if err != nil {
		return err
	}
	err = a.print(&f.output, rewindUndoneResult(request.GetGroup(), answer, request.GetDryRun()))
	if err == nil && f.wait {
		return a.waitGroup(ctx, s, request.GetGroup())
	}
	return err
}

func rewindUndoneResult(group string, answer *adminv1.UndoRewindResponse, dryRun bool) result {
	return result{
		document: rewindUndoneDocument{pointOf(answer.GetTo()), durationText(answer.GetTook()), dryRun},
		names:    []string{checkpointName(answer.GetTo())},
		show: func(p *page) {
			if dryRun {
				p.line("group %s: would return to %s", group, pointText(p.now, answer.GetTo()))
				return
			}
			p.line("group %s: rewind undone, again at %s, in %s", group, pointText(p.now, answer.GetTo()), spanOf(answer.GetTook()))
		},
	}
}
