package main

import (
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/internal/bytesize"
)

// forkCreatedDocument is the output of `lockstep fork create`.
type forkCreatedDocument struct {
	Fork forkDocument `json:"fork"`
}

func (a *app) newForkCreateCommand() *cobra.Command {
	var admin adminFlags
	var output outputFlag
	var at, quota string
	var age time.Duration
	command := &cobra.Command{
		Use:   "create GROUP NAME",
		Short: "Open every member writable at one moment, over NBD, beside production",
		Long: `Makes a fork: every member of the group as it was at one recovery point, each as
an NBD export on a Unix socket that can be written to. Nothing is copied, and the
group runs on and never sees what is written.

A fork takes the space of what is written to it, and keeps the group's history
from its point on. It ends when it is discarded, when it is too old, or when
the site is short of space: production comes first.`,
		Example: `  lockstep fork create shop rehearsal --at 2026-11-22T10:41:07Z --max-age 4h
  nbd-client -unix /var/lib/lockstep/nbd.sock /dev/nbd0 -N fork/rehearsal/VOLUME-ID
  mount /dev/nbd0 /mnt/rehearsal
  lockstep fork discard rehearsal`,
		Args:              wantArgs("GROUP", "NAME"),
		ValidArgsFunction: a.completeGroups(&admin),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			point, err := parseAt(at)
			if err != nil {
				return err
			}
			request := &adminv1.CreateForkRequest{Name: args[1], At: point}
			if quota != "" {
				if request.QuotaBytes, err = bytesize.Parse(quota); err != nil || request.QuotaBytes == 0 {
					return misuse("--quota %q: want a size such as 20Gi", quota)
				}
			}
			if command.Flags().Changed("max-age") {
				if age <= 0 {
					return misuse("--max-age %s: want a time such as 4h", age)
				}
				request.MaxAge = durationpb.New(age)
			}
			return admin.withSite(func(s *site) error {
				if request.Group, err = s.group(command.Context(), args[0]); err != nil {
					return err
				}
				stop := a.progress("making a fork of " + args[0])
				answer, err := s.CreateFork(command.Context(), request)
				stop()
				if err != nil {
					return err
				}
				return a.printCreatedFork(&output, &admin, answer.GetFork())
			})
		}),
	}
	admin.register(a, command)
	output.register(command)
	registerAt(command, &at, atLatest, "moment to fork at")
	command.Flags().StringVar(&quota, "quota", "", "bytes that may be written to it, such as 20Gi; default: a quarter of what is free above the reserve, 64Gi at most")
	command.Flags().DurationVar(&age, "max-age", 0, "time after which it is given up; default 24h, 720h at most")
	return command
}

func (a *app) printCreatedFork(output *outputFlag, admin *adminFlags, fork *adminv1.Fork) error {
	err := a.print(output, result{
		document: forkCreatedDocument{forkOf(fork)},
		names:    []string{fork.GetName()},
		show: func(p *page) {
			p.fields([]field{
				{"Fork", text(fork.GetName())},
				{"Group", text(fork.GetGroup())},
				{"Point", text(pointText(p.now, fork.GetPoint()))},
				{"Quota", text(iecSigned(fork.GetQuotaBytes()))},
				{"Expires", text(moment(fork.GetExpires()))},
				{"Made in", text(spanOf(fork.GetTook()))},
			})
			p.line("")
			p.showExports("", fork.GetExports())
		},
	})
	if err == nil && output.forPeople() {
		a.hint("when done: %s", a.suggest(admin, "fork discard "+fork.GetName()))
	}
	return err
}
