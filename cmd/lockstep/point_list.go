package main

import (
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// Bounds of --limit, from the admin API.
const (
	defaultPointLimit = 100
	maxPointLimit     = 10000
)

// pointsDocument is the output of `lockstep point list`.
type pointsDocument struct {
	Points []*pointDocument `json:"points"`
	Total  uint64           `json:"total"`
}

type pointListFlags struct {
	from, to string
	since    time.Duration
	limit    uint32
}

func (a *app) newPointListCommand() *cobra.Command {
	var admin adminFlags
	var output outputFlag
	var f pointListFlags
	command := &cobra.Command{
		Use:   "list GROUP",
		Short: "List recovery points, newest first",
		Long: `Lists recovery points, newest first. What a rewind, a failover or a recovery has left
behind is among them as long as it is pinned, and marked: it is chosen by a pin alone
(--at pin:NAME), and not by its number or time.`,
		Example: `  lockstep point list shop --since 10m
  lockstep point list shop --from 2026-11-22T10:00:00Z --to 2026-11-22T10:05:00Z --limit 1000`,
		Args:              wantArgs("GROUP"),
		ValidArgsFunction: a.completeGroups(&admin),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			request, err := f.request(args[0], a.now())
			if err != nil {
				return err
			}
			return admin.withSite(func(s *site) error {
				if request.Group, err = s.group(command.Context(), args[0]); err != nil {
					return err
				}
				answer, err := s.ListPoints(command.Context(), request)
				if err != nil {
					return err
				}
				return a.printPoints(&output, answer)
			})
		}),
	}
	admin.register(a, command)
	output.register(command)
	command.Flags().StringVar(&f.from, "from", "", "oldest moment, RFC 3339, inclusive (default: the horizon)")
	command.Flags().StringVar(&f.to, "to", "", "newest moment, RFC 3339, inclusive (default: now)")
	command.Flags().DurationVar(&f.since, "since", 0, "only points of this last while, such as 10m")
	command.Flags().Uint32Var(&f.limit, "limit", defaultPointLimit, "how many at most, 1 to 10000")
	command.MarkFlagsMutuallyExclusive("from", "since")
	return command
}

func (f *pointListFlags) request(group string, now time.Time) (*adminv1.ListPointsRequest, error) {
	if f.limit < 1 || f.limit > maxPointLimit {
		return nil, misuse("--limit %d: want 1 to %d", f.limit, maxPointLimit)
	}
	if f.since < 0 {
		return nil, misuse("--since %v is below zero", f.since)
	}
	request := &adminv1.ListPointsRequest{Group: group, Limit: f.limit}
	var from, to time.Time
	var err error
	if f.from != "" {
		if from, err = parseTime("--from", f.from); err != nil {
			return nil, err
		}
		request.From = timestamppb.New(from)
	}
	if f.since > 0 {
		request.From = timestamppb.New(now.Add(-f.since))
	}
	if f.to != "" {
		if to, err = parseTime("--to", f.to); err != nil {
			return nil, err
		}
		request.To = timestamppb.New(to)
	}
	if request.From != nil && request.To != nil && request.From.AsTime().After(request.To.AsTime()) {
		return nil, misuse("the list would begin at %s, after its end at %s", moment(request.From), moment(request.To))
	}
	return request, nil
}

func (a *app) printPoints(output *outputFlag, answer *adminv1.ListPointsResponse) error {
	points := answer.GetPoints()
	if len(points) == 0 && output.forPeople() {
		a.hint("no recovery points there")
		return nil
	}
	r := result{
		document: pointsDocument{each(points, pointOf), answer.GetTotal()},
		show:     func(p *page) { p.showPoints(points) },
	}
	for _, point := range points {
		r.names = append(r.names, selectorName(point))
	}
	if err := a.print(output, r); err != nil {
		return err
	}
	if answer.GetTotal() > uint64(len(points)) {
		a.hint("%d of %d points: see more with --limit, --from, --to or --since", len(points), answer.GetTotal())
	}
	return nil
}

func (p *page) showPoints(points []*adminv1.Point) {
	columns := []column{right("CHECKPOINT"), left("TIME"), right("AGE"), wide(left("VALID UNTIL")), right("MEMBERS"), wide(left("LEFT AT")), left("PINS")}
	var rows [][]cell
	for _, point := range points {
		rows = append(rows, []cell{
			text(checkpointName(point)), text(moment(point.GetTime())), text(pointAge(p.now, point)), text(moment(point.GetValidUntil())),
			number(uint64(point.GetMembers())), text(leftList(point.GetLeft())), text(pinText(point)),
		})
	}
	p.table("", columns, rows)
}
