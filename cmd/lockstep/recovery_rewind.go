package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/api/v1alpha1"
)

func (a *app) newRewindRecoveryCommand() *cobra.Command {
	command := a.parent("rewind", "Take a group back to an earlier moment, in place",
		a.newRewindStartRecoveryCommand(),
		a.newRewindUndoRecoveryCommand(),
		a.newRewindCommitRecoveryCommand(),
	)
	command.Long = `Takes every member of a group back to one recovery point, in place and without a
copy. Deployments and StatefulSets that use the group's claims are scaled to 0 and,
afterwards, to what they were. A rewind can be looked at, undone and started again
at another point, until it is committed.

Each verb makes a Recovery in the group's namespace and follows it. When this
command is interrupted, the recovery goes on.`
	return command
}

// workloadsFlag says what becomes of the workloads that use a group's claims.
type workloadsFlag struct{ policy string }

func (f *workloadsFlag) register(command *cobra.Command) {
	command.Flags().StringVar(&f.policy, "workloads", "scale", "scale: stop and start what uses the claims; keep: wait until somebody else has stopped it")
}

func (f *workloadsFlag) parse() (v1alpha1.WorkloadPolicy, error) {
	switch strings.ToLower(f.policy) {
	case "scale":
		return v1alpha1.WorkloadsScale, nil
	case "keep":
		return v1alpha1.WorkloadsKeep, nil
	}
	return "", misuse("--workloads %q: want scale or keep", f.policy)
}

func (a *app) newRewindStartRecoveryCommand() *cobra.Command {
	var f recoveryFlags
	var workloads workloadsFlag
	var at string
	var dryRun bool
	command := &cobra.Command{
		Use:   "start GROUP --at MOMENT",
		Short: "Rewind a group; it can be undone until it is committed",
		Example: `  kubectl lockstep rewind start shop --at 2026-11-22T10:41:07Z
  kubectl lockstep rewind start pvc:shop/pgdata --at pin:before-upgrade --dry-run`,
		Args: wantArgs("GROUP"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			point, err := parseAt(at)
			if err != nil {
				return err
			}
			policy, err := workloads.parse()
			if err != nil {
				return err
			}
			err = a.recover(command.Context(), &f, dryRun, recoveryRequest{
				group: args[0], verb: "rewind",
				spec: v1alpha1.RecoverySpec{Action: v1alpha1.ActionRewind, At: point, Workloads: policy},
				plan: func(ctx context.Context, s *site, group string) (result, error) {
					answer, err := s.StartRewind(ctx, &adminv1.StartRewindRequest{Group: group, At: point, DryRun: true})
					return rewindRecoveryResult(args[0], answer, nil), err
				},
				done: func(r *v1alpha1.Recovery) result {
					return rewindRecoveryResult(args[0], &adminv1.StartRewindResponse{
						Rewind: &adminv1.Rewind{To: recoveredPoint(r.Status.Point), From: recoveredPoint(r.Status.Before), Started: recoveryStarted(r.Status.StartTime)},
						Took:   recoveryTook(r.Status),
					}, r)
				},
			})
			if err == nil && f.wait && !dryRun {
				a.hintAfterRewind(&f.output, &f.admin, args[0])
			}
			return err
		}),
	}
	registerAt(command, &at, "", "moment to return to")
	registerDryRun(command, &dryRun)
	workloads.register(command)
	f.register(a, command)
	return command
}

// rewindRecoveryResult has no recovery when nothing was done.
func rewindRecoveryResult(group string, answer *adminv1.StartRewindResponse, r *v1alpha1.Recovery) result {
	out := rewindStartedResult(group, answer, r == nil)
	document := recoveredRewindDocument{rewindStartedDocument: out.document.(rewindStartedDocument)}
	if r != nil {
		document.Recovery = recoveryOf(r)
	}
	out.document = document
	return out
}

func (a *app) newRewindUndoRecoveryCommand() *cobra.Command {
	var f recoveryFlags
	var workloads workloadsFlag
	var dryRun bool
	command := &cobra.Command{
		Use:   "undo GROUP",
		Short: "Return to where the group was before its rewind",
		Args:  wantArgs("GROUP"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			policy, err := workloads.parse()
			if err != nil {
				return err
			}
			return a.recover(command.Context(), &f, dryRun, recoveryRequest{
				group: args[0], verb: "undo",
				spec: v1alpha1.RecoverySpec{Action: v1alpha1.ActionUndo, Workloads: policy},
				plan: func(ctx context.Context, s *site, group string) (result, error) {
					answer, err := s.UndoRewind(ctx, &adminv1.UndoRewindRequest{Group: group, DryRun: true})
					return undoRecoveryResult(args[0], answer, nil), err
				},
				done: func(r *v1alpha1.Recovery) result {
					return undoRecoveryResult(args[0], &adminv1.UndoRewindResponse{To: recoveredPoint(r.Status.Point), Took: recoveryTook(r.Status)}, r)
				},
			})
		}),
	}
	registerDryRun(command, &dryRun)
	workloads.register(command)
	f.register(a, command)
	return command
}

func undoRecoveryResult(group string, answer *adminv1.UndoRewindResponse, r *v1alpha1.Recovery) result {
	out := rewindUndoneResult(group, answer, r == nil)
	document := recoveredUndoDocument{rewindUndoneDocument: out.document.(rewindUndoneDocument)}
	if r != nil {
		document.Recovery = recoveryOf(r)
	}
	out.document = document
	return out
}

func (a *app) newRewindCommitRecoveryCommand() *cobra.Command {
	var f recoveryFlags
	var confirm confirmFlags
	command := &cobra.Command{
		Use:   "commit GROUP",
		Short: "Keep a rewind for good; it can no longer be undone",
		Args:  wantArgs("GROUP"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			if err := confirm.validate(a, command); err != nil {
				return err
			}
			request := recoveryRequest{
				group: args[0], verb: "commit",
				spec: v1alpha1.RecoverySpec{Action: v1alpha1.ActionCommit},
				plan: func(ctx context.Context, s *site, group string) (result, error) {
					answer, err := s.CommitRewind(ctx, &adminv1.CommitRewindRequest{Group: group, DryRun: true})
					return commitRecoveryResult(args[0], answer, nil), err
				},
				done: func(r *v1alpha1.Recovery) result {
					return commitRecoveryResult(args[0], &adminv1.CommitRewindResponse{At: recoveredPoint(r.Status.Point)}, r)
				},
			}
			if confirm.asks() {
				request.confirm = a.askCommitRecovery
			}
			return a.recover(command.Context(), &f, confirm.dryRun, request)
		}),
	}
	confirm.register(command)
	f.register(a, command)
	return command
}

func (a *app) askCommitRecovery(ctx context.Context, s *site, group string, _ *v1alpha1.RecoverySpec) error {
	return a.askWithPlan(ctx, commitQuestion(group, "where its rewind took it"), func() error {
		plan, err := s.CommitRewind(ctx, &adminv1.CommitRewindRequest{Group: group, DryRun: true})
		if err != nil {
			return err
		}
		return a.ask(ctx, commitQuestion(group, pointText(a.now(), plan.GetAt())))
	})
}

func commitRecoveryResult(group string, answer *adminv1.CommitRewindResponse, r *v1alpha1.Recovery) result {
	out := rewindCommittedResult(group, answer, r == nil)
	document := recoveredCommitDocument{rewindCommittedDocument: out.document.(rewindCommittedDocument)}
	if r != nil {
		document.Recovery = recoveryOf(r)
	}
	out.document = document
	return out
}
