package main

import (
	"context"

	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// rewindStartedDocument is the output of `lockstep rewind start`.
type rewindStartedDocument struct {
	Rewind *rewindDocument `json:"rewind"`
	Took   *string         `json:"took"`
	DryRun bool            `json:"dryRun"`
}

func (a *app) newRewindStartCommand() *cobra.Command {
	var f rewindFlags
	var at string
	var dryRun bool
	command := &cobra.Command{
		Use:   "start GROUP --at MOMENT",
		Short: "Rewind a group; it can be undone until it is committed",
		Example: `  lockstep rewind start shop --at 2026-11-22T10:41:07Z
  lockstep rewind start shop --at 1234
  lockstep rewind start shop --at pin:before-upgrade --dry-run`,
		Args: wantArgs("GROUP"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			point, err := parseAt(at)
			if err != nil {
				return err
			}
			request := &adminv1.StartRewindRequest{Group: args[0], At: point, DryRun: dryRun}
			return f.admin.withSite(func(s *site) error { return a.startRewind(command.Context(), s, &f, request) })
		}),
	}
	registerAt(command, &at, "", "moment to return to")
	registerDryRun(command, &dryRun)
	f.register(a, command)
	return command
}

func (a *app) startRewind(ctx context.Context, s *site, f *rewindFlags, request *adminv1.StartRewindRequest) error {
	stop := a.progress("rewinding " + request.GetGroup())
	answer, err := s.StartRewind(ctx, request)
	stop()
	if err != nil {
		return err
	}
	err = a.print(&f.output, rewindStartedResult(request.GetGroup(), answer, request.GetDryRun()))
	if err != nil || request.GetDryRun() {
		return err
	}
	a.hintAfterRewind(&f.output, &f.admin, request.GetGroup())
	if f.wait {
		return a.waitGroup(ctx, s, request.GetGroup())
	}
	return nil
}

func rewindStartedResult(group string, answer *adminv1.StartRewindResponse, dryRun bool) result {
	return result{
		document: rewindStartedDocument{rewindOf(answer.GetRewind()), durationText(answer.GetTook()), dryRun},
		names:    []string{checkpointName(answer.GetRewind().GetTo())},
		show: func(p *page) {
			if dryRun {
				p.line("group %s: would go to %s", group, pointText(p.now, answer.GetRewind().GetTo()))
				return // the point to come back to would be taken then
			}
			p.line("group %s: now at %s, in %s", group, pointText(p.now, answer.GetRewind().GetTo()), spanOf(answer.GetTook()))
			p.line("before: %s", pointText(p.now, answer.GetRewind().GetFrom()))
		},
	}
}

func (a *app) hintAfterRewind(output *outputFlag, admin *adminFlags, group string) {
	if output.forPeople() {
		a.hint("to go back:  %s", a.suggest(admin, "rewind undo "+group))
		a.hint("to keep it:  %s", a.suggest(admin, "rewind commit "+group))
	}
}
