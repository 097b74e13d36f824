package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// rewindCommittedDocument is the output of `lockstep rewind commit`.
type rewindCommittedDocument struct {
	At     *pointDocument `json:"at"`
	DryRun bool           `json:"dryRun"`
}

func (a *app) newRewindCommitCommand() *cobra.Command {
	var f rewindFlags
	var confirm confirmFlags
	command := &cobra.Command{
		Use:   "commit GROUP",
		Short: "Keep a rewind for good; it can no longer be undone",
		Args:  wantArgs("GROUP"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			if err := confirm.validate(a, command); err != nil {
				return err
			}
			return f.admin.withSite(func(s *site) error {
				return a.commitRewind(command.Context(), s, &f, &confirm, args[0])
			})
		}),
	}
	confirm.register(command)
	f.register(a, command)
	return command
}

func (a *app) commitRewind(ctx context.Context, s *site, f *rewindFlags, confirm *confirmFlags, group string) error {
	if confirm.asks() {
		plan, err := s.CommitRewind(ctx, &adminv1.CommitRewindRequest{Group: group, DryRun: true})
		if err != nil {
			return err
		}
		if err := a.ask(ctx, commitQuestion(group, pointText(a.now(), plan.GetAt()))); err != nil {
			return err
		}
	}
	stop := a.progress("committing the rewind of " + group)
	answer, err := s.CommitRewind(ctx, &adminv1.CommitRewindRequest{Group: group, DryRun: confirm.dryRun})
	stop()
	if err != nil {
		return err
	}
	err = a.print(&f.output, rewindCommittedResult(group, answer, confirm.dryRun))
	if err == nil && f.wait {
		return a.waitGroup(ctx, s, group)
	}
	return err
}

func commitQuestion(group, point string) string {
	return fmt.Sprintf("Keep group %s at %s? What was written after it can then no longer be returned to by undo.", group, point)
}

func rewindCommittedResult(group string, answer *adminv1.CommitRewindResponse, dryRun bool) result {
	return result{
		document: rewindCommittedDocument{pointOf(answer.GetAt()), dryRun},
		names:    []string{checkpointName(answer.GetAt())},
		show: func(p *page) {
			done := "rewind committed"
			if dryRun {
				done = "the rewind would be committed"
			}
			p.line("group %s: %s at %s", group, done, pointText(p.now, answer.GetAt()))
		},
	}
}
