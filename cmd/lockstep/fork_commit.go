package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// forkCommittedDocument is the output of `lockstep fork commit`.
type forkCommittedDocument struct {
	Name         string          `json:"name"`
	Point        *pointDocument  `json:"point"`
	Rewind       *rewindDocument `json:"rewind"`
	PayloadBytes int64           `json:"payloadBytes"`
	JournalBytes int64           `json:"journalBytes"`
	Took         *string         `json:"took"`
	DryRun       bool            `json:"dryRun"`
}

func (a *app) newForkCommitCommand() *cobra.Command {
	var f rewindFlags
	var confirm confirmFlags
	command := &cobra.Command{
		Use:   "commit GROUP NAME",
		Short: "Make a fork production; the group can go back until that is committed",
		Long: `Makes a fork production: every member of the group goes back to the fork's point,
and gets what was written to the fork since. The fork is gone then. What was
written to the group after the fork's point is left behind, as by a rewind:
` + "`rewind undo`" + ` returns to it until ` + "`rewind commit`" + ` gives it up.

Stop the application and unmount its volumes first. Unmount the fork as well,
and disconnect from it. What the fork holds is read once before anything is
changed, and then copied: this takes as long as it takes to write it. A site
that is killed in the middle completes it when it is started again.`,
		Example: `  lockstep fork commit shop rehearsal --dry-run
  lockstep fork commit shop rehearsal --yes
  lockstep rewind undo shop      # back to where the group was
  lockstep rewind commit shop    # or: keep it for good`,
		Args: wantArgs("GROUP", "NAME"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			if err := confirm.validate(a, command); err != nil {
				return err
			}
			return f.admin.withSite(func(s *site) error {
				group, err := s.group(command.Context(), args[0])
				if err != nil {
					return err
				}
				request := &adminv1.CommitForkRequest{Group: group, Name: args[1], DryRun: confirm.dryRun}
				return a.commitFork(command.Context(), s, &f, &confirm, request)
			})
		}),
	}
	confirm.register(command)
	f.register(a, command)
	// What is large takes long, and is not begun when its caller gives up before.
	if timeout := command.Flags().Lookup("timeout"); timeout != nil {
		timeout.DefValue, f.admin.timeout = "0s", 0
	}
	return command
}

func (a *app) commitFork(ctx context.Context, s *site, f *rewindFlags, confirm *confirmFlags, request *adminv1.CommitForkRequest) error {
	if confirm.asks() {
		plan, err := s.CommitFork(ctx, &adminv1.CommitForkRequest{Group: request.GetGroup(), Name: request.GetName(), DryRun: true})
		if err != nil {
			return err
		}
		question := fmt.Sprintf("Make fork %s of %s production? %s are copied, and what was written to group %s since then is left behind.",
			request.GetName(), pointText(a.now(), plan.GetPoint()), iecSigned(plan.GetPayloadBytes()), request.GetGroup())
		if err := a.ask(ctx, question); err != nil {
			return err
		}
	}
	stop := a.commitProgress(ctx, s, request.GetName())
	answer, err := s.CommitFork(ctx, request)
	stop()
	if err != nil {
		return err
	}
	err = a.print(&f.output, forkCommittedResult(request, answer))
	if err != nil || request.GetDryRun() {
		return err
	}
	a.hintAfterRewind(&f.output, &f.admin, request.GetGroup())
	if f.wait {
		return a.waitGroup(ctx, s, request.GetGroup())
	}
	return nil
}

// commitLookEvery is the time between two looks at how far a commit has come.
const commitLookEvery = time.Second

// commitProgress shows on a terminal how far the commit of a fork has come. The
// returned function ends that, and may be called once.
func (a *app) commitProgress(ctx context.Context, s *site, name string) func() {
	doing := "committing fork " + name
	if !a.terminals.stderr {
		return func() {}
	}
	var mu sync.Mutex
	done := ""
	ctx, cancel := context.WithCancel(ctx)
	var looking sync.WaitGroup
	looking.Go(func() {
		ticker := time.NewTicker(commitLookEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			answer, err := s.ListForks(ctx, &adminv1.ListForksRequest{})
			if err != nil {
				continue
			}
			for _, fork := range answer.GetForks() {
				if fork.GetName() == name && fork.GetCommitBytes() > 0 {
					mu.Lock()
					done = ", " + percent(fork.GetCommittedBytes(), fork.GetCommitBytes())
					mu.Unlock()
				}
			}
		}
	})
	stop := a.progressOf(func() string {
		mu.Lock()
		defer mu.Unlock()
		return doing + done
	})
	return func() {
		cancel()
		looking.Wait()
		stop()
	}
}

func forkCommittedResult(request *adminv1.CommitForkRequest, answer *adminv1.CommitForkResponse) result {
	document := forkCommittedDocument{
		Name: request.GetName(), Point: pointOf(answer.GetPoint()), Rewind: rewindOf(answer.GetRewind()),
		PayloadBytes: answer.GetPayloadBytes(), JournalBytes: answer.GetJournalBytes(), Took: durationText(answer.GetTook()), DryRun: request.GetDryRun(),
	}
	return result{
		document: document,
		names:    []string{request.GetName()},
		show: func(p *page) {
			if request.GetDryRun() {
				p.line("group %s: would go to %s, and get %s from fork %s", request.GetGroup(), pointText(p.now, answer.GetPoint()),
					iecSigned(answer.GetPayloadBytes()), request.GetName())
				p.line("room needed in the journals: %s", iecSigned(answer.GetJournalBytes()))
				return // the point to come back to would be taken then
			}
			p.line("group %s: fork %s is production, at %s, in %s", request.GetGroup(), request.GetName(), pointText(p.now, answer.GetRewind().GetTo()), spanOf(answer.GetTook()))
			p.line("before: %s", pointText(p.now, answer.GetRewind().GetFrom()))
		},
	}
}
