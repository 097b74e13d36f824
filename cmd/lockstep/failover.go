package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// failedOverDocument is the output of `lockstep failover`.
type failedOverDocument struct {
	Point     *pointDocument `json:"point"`
	Term      uint64         `json:"term"`
	RPO       *string        `json:"rpo"`
	Took      *string        `json:"took"`
	VolumeIDs []string       `json:"volumeIDs"`
	// Volumes are the same by name, where the site is of a version that tells.
	Volumes []failedOverVolumeDocument `json:"volumes"`
	DryRun  bool                       `json:"dryRun"`
}

type failedOverVolumeDocument struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Claim string `json:"claim"`
}

func (a *app) newFailoverCommand() *cobra.Command {
	if a.isPlugin() {
		return a.newFailoverRecoveryCommand()
	}
	var f rewindFlags
	var confirm confirmFlags
	var at string
	command := &cobra.Command{
		Use:   "failover GROUP",
		Short: "Make this site primary for a group",
		Long: `Makes this site primary for a group at a recovery point that it holds. It never
waits for the other site, which is refused from then on and steps down when it
returns. What the other site had acknowledged after the point stays readable
there, and is not part of the group here.`,
		Example: `  lockstep failover shop --dry-run
  lockstep failover shop --yes
  lockstep failover shop --at 2026-11-22T10:41:07Z --yes`,
		Args: wantArgs("GROUP"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			point, err := parseAt(at)
			if err != nil {
				return err
			}
			if err := confirm.validate(a, command); err != nil {
				return err
			}
			request := &adminv1.FailoverRequest{Group: args[0], At: point, DryRun: confirm.dryRun}
			return f.admin.withSite(func(s *site) error {
				return a.failover(command.Context(), s, &f, &confirm, request)
			})
		}),
	}
	registerAt(command, &at, atLatest, "recovery point to fail over to")
	confirm.register(command)
	f.register(a, command)
	return command
}

func (a *app) failover(ctx context.Context, s *site, f *rewindFlags, confirm *confirmFlags, request *adminv1.FailoverRequest) error {
	a.tellAbsent(ctx, s, request.GetGroup())
	if confirm.asks() {
		if err := a.askFailover(ctx, s, request); err != nil {
			return err
		}
	}
	stop := a.progress("failing over " + request.GetGroup())
	answer, err := s.Failover(ctx, request)
	stop()
	if err != nil {
		return err
	}
	err = a.print(&f.output, failedOverResult(request, answer))
	if err == nil && f.wait {
		return a.waitGroup(ctx, s, request.GetGroup())
	}
	return err
}

// tellAbsent names the members that a failover leaves out. What is not known of them
// keeps nobody from it.
func (a *app) tellAbsent(ctx context.Context, s *site, group string) {
	answer, err := s.DescribeGroup(ctx, &adminv1.DescribeGroupRequest{Group: group})
	if err != nil || answer.GetGroup().GetRole() != adminv1.Role_ROLE_REPLICA {
		return
	}
	for _, v := range answer.GetMembers() {
		if v.GetStore() == "" {
			a.hint("nothing has arrived here of %s (%s): the group goes on without it, and site %s keeps what it has of it", volumeName(v), v.GetId(), answer.GetGroup().GetPeer())
		}
	}
}

// askFailover shows the plan first. What is confirmed is what is done: that point, and no
// other one that a time means by then. "latest" stays: a newer point that arrives
// during the question loses less.
func (a *app) askFailover(ctx context.Context, s *site, request *adminv1.FailoverRequest) error {
	plan, err := s.Failover(ctx, &adminv1.FailoverRequest{Group: request.GetGroup(), At: request.GetAt(), DryRun: true})
	if err != nil {
		return err
	}
	newer := ""
	if request.GetAt() == atLatest {
		newer = " or newer"
	} else if !strings.HasPrefix(request.GetAt(), pinMark) {
		request.At = checkpointName(plan.GetPoint())
	}
	return a.ask(ctx, fmt.Sprintf("Make this site primary for group %s at %s%s, with term %d? The last %s before now would be missing here.",
		request.GetGroup(), pointText(a.now(), plan.GetPoint()), newer, plan.GetTerm(), spanOf(plan.GetRpo())))
}

func failedOverResult(request *adminv1.FailoverRequest, answer *adminv1.FailoverResponse) result {
	return result{
		document: failedOverDocument{
			Point: pointOf(answer.GetPoint()), Term: answer.GetTerm(), RPO: durationText(answer.GetRpo()), Took: durationText(answer.GetTook()),
			VolumeIDs: append([]string{}, answer.GetVolumeIds()...),
			Volumes: each(answer.GetVolumes(), func(v *adminv1.FailoverVolume) failedOverVolumeDocument {
				return failedOverVolumeDocument{ID: v.GetId(), Name: v.GetName(), Claim: v.GetClaim()}
			}),
			DryRun: request.GetDryRun(),
		},
		names: []string{checkpointName(answer.GetPoint())},
		show:  func(p *page) { p.showFailover(request, answer) },
	}
}

func (p *page) showFailover(request *adminv1.FailoverRequest, answer *adminv1.FailoverResponse) {
	title := "is primary here"
	if request.GetDryRun() {
		title = "would become primary here"
	}
	p.line("group %s %s", request.GetGroup(), title)
	fields := []field{
		{"Point", text(pointText(p.now, answer.GetPoint()))},
		{"Term", number(answer.GetTerm())},
		{"RPO", text(spanOf(answer.GetRpo()))},
	}
	if !request.GetDryRun() {
		fields = append(fields, field{"Took", text(spanOf(answer.GetTook()))})
	}
	p.fields(append(fields, field{"Volumes", number(uint64(len(answer.GetVolumeIds())))}))
	names := map[string]string{}
	for _, v := range answer.GetVolumes() {
		names[v.GetId()] = volumeName(v)
	}
	for _, id := range answer.GetVolumeIds() {
		p.line("  %s   %s", id, names[id])
	}
}
