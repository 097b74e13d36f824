package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/api/v1alpha1"
)

func (a *app) newFailoverRecoveryCommand() *cobra.Command {
	var f recoveryFlags
	var confirm confirmFlags
	var at string
	command := &cobra.Command{
		Use:   "failover GROUP",
		Short: "Make this cluster primary for a group",
		Long: `Makes this cluster primary for a group at a recovery point that it holds, and
volumes and claims for its members in the namespace of the same name. It never
waits for the other site, which is refused from then on and steps down when it
returns. What the other site had acknowledged after the point stays readable
there, and is not part of the group here. Start the workloads yourself.

It makes a Recovery in the group's namespace and follows it. When this command is
interrupted, the recovery goes on.`,
		Example: `  kubectl lockstep failover shop --dry-run
  kubectl lockstep failover shop --yes
  kubectl lockstep failover shop --at 2026-11-22T10:41:07Z --yes`,
		Args: wantArgs("GROUP"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			point, err := parseAt(at)
			if err != nil {
				return err
			}
			if err := confirm.validate(a, command); err != nil {
				return err
			}
			request := recoveryRequest{
				group: args[0], verb: "failover",
				spec: v1alpha1.RecoverySpec{Action: v1alpha1.ActionFailover, At: point},
				plan: func(ctx context.Context, s *site, group string) (result, error) {
					ask := &adminv1.FailoverRequest{Group: group, At: point, DryRun: true}
					answer, err := s.Failover(ctx, ask)
					return failoverRecoveryResult(&adminv1.FailoverRequest{Group: args[0], At: point, DryRun: true}, answer, nil), err
				},
				done: func(r *v1alpha1.Recovery) result {
					return failoverRecoveryResult(&adminv1.FailoverRequest{Group: args[0], At: point}, failoverAnswer(r.Namespace, r.Status), r)
				},
			}
			if confirm.asks() {
				request.confirm = a.askFailoverRecovery
			}
			return a.recover(command.Context(), &f, confirm.dryRun, request)
		}),
	}
	registerAt(command, &at, atLatest, "recovery point to fail over to")
	confirm.register(command)
	f.register(a, command)
	return command
}

// askFailoverRecovery has the recovery go to the point that was shown, see askFailover.
func (a *app) askFailoverRecovery(ctx context.Context, s *site, group string, spec *v1alpha1.RecoverySpec) error {
	without := fmt.Sprintf("Make this site primary for group %s at %s?", group, spec.At)
	return a.askWithPlan(ctx, without, func() error {
		request := &adminv1.FailoverRequest{Group: group, At: spec.At}
		err := a.askFailover(ctx, s, request)
		spec.At = request.GetAt()
		return err
	})
}

// failoverAnswer is what the admin API would have said of a recovery.
func failoverAnswer(namespace string, s v1alpha1.RecoveryStatus) *adminv1.FailoverResponse {
	answer := &adminv1.FailoverResponse{Point: recoveredPoint(s.Point), Term: uint64(max(s.Term, 0)), Rpo: recoveryRPO(s.RPO), Took: recoveryTook(s)}
	for _, claim := range s.Claims {
		answer.VolumeIds = append(answer.VolumeIds, claim.Volume)
		answer.Volumes = append(answer.Volumes, &adminv1.FailoverVolume{Id: claim.Volume, Claim: namespace + "/" + claim.Claim})
	}
	return answer
}

// failoverRecoveryResult has no recovery when nothing was done.
func failoverRecoveryResult(request *adminv1.FailoverRequest, answer *adminv1.FailoverResponse, r *v1alpha1.Recovery) result {
	out := failedOverResult(request, answer)
	document := recoveredFailoverDocument{failedOverDocument: out.document.(failedOverDocument)}
	if r != nil {
		document.Recovery = recoveryOf(r)
		show := out.show
		out.show = func(p *page) {
			show(p)
			p.showRecoveredClaims(r)
		}
	}
	out.document = document
	return out
}

func (p *page) showRecoveredClaims(r *v1alpha1.Recovery) {
	if len(r.Status.Claims) == 0 {
		return
	}
	p.section("Claims in namespace " + r.Namespace)
	columns := []column{left("CLAIM"), right("SIZE"), left("VOLUME"), left("PERSISTENT VOLUME")}
	var rows [][]cell
	for _, claim := range r.Status.Claims {
		size := unknown
		if claim.Size != nil {
			size = claim.Size.String()
		}
		rows = append(rows, []cell{text(claim.Claim), text(size), text(claim.Volume), text(claim.PersistentVolume)})
	}
	p.table("  ", columns, rows)
}
