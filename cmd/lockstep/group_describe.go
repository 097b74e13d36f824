package main

import (
	"fmt"

	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// groupDetailDocument is the output of `lockstep group describe`.
type groupDetailDocument struct {
	Group     groupDocument      `json:"group"`
	Members   []volumeDocument   `json:"members"`
	Timelines []timelineDocument `json:"timelines"`
	Pinned    []*pointDocument   `json:"pinned"`
	Oldest    *pointDocument     `json:"oldest"`
	History   []tierDocument     `json:"history"`
}

func (a *app) newGroupDescribeCommand() *cobra.Command {
	var admin adminFlags
	var output outputFlag
	command := &cobra.Command{
		Use:   "describe GROUP",
		Short: "Show everything about one group",
		Long: `Shows everything about one group. History has a row for each tier of the group's
"history": the recovery points that are of its age now, the oldest of them, and the
room in all members' journals of what was thinned to it. With the first tier is what
was not thinned. "pins" has left the window, and is there for pins and views.`,
		Args:              wantArgs("GROUP"),
		ValidArgsFunction: a.completeGroups(&admin),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			return admin.withSite(func(s *site) error {
				group, err := s.group(command.Context(), args[0])
				if err != nil {
					return err
				}
				answer, err := s.DescribeGroup(command.Context(), &adminv1.DescribeGroupRequest{Group: group, History: true})
				if err != nil {
					return err
				}
				return a.print(&output, result{
					document: groupDetailOf(answer),
					names:    []string{answer.GetGroup().GetName()},
					show: func(p *page) {
						p.showGroupDetail(answer)
						if rewind := answer.GetGroup().GetRewind(); rewind != nil {
							p.showRewindInProgress(rewind, a.suggest(&admin, "rewind undo "+args[0]), a.suggest(&admin, "rewind commit "+args[0]))
						}
					},
				})
			})
		}),
	}
	admin.register(a, command)
	output.register(command)
	return command
}

func groupDetailOf(m *adminv1.DescribeGroupResponse) groupDetailDocument {
	return groupDetailDocument{
		Group:     groupOf(m.GetGroup()),
		Members:   each(m.GetMembers(), volumeOf),
		Timelines: each(m.GetTimelines(), timelineOf),
		Pinned:    each(m.GetPinned(), pointOf),
		Oldest:    pointOf(m.GetOldest()),
		History:   historyOf(m),
	}
}

func (p *page) showGroupDetail(m *adminv1.DescribeGroupResponse) {
	g := m.GetGroup()
	p.fields([]field{
		{"Group", text(g.GetName())},
		{"State", groupState(g)},
		{"Role", text(fmt.Sprintf("%s, term %d", roleText(g.GetRole()), g.GetTerm()))},
		{"Peer", text(peerText(g))},
		{"Newest", text(pointText(p.now, g.GetNewest()))},
		{"Oldest", text(pointText(p.now, m.GetOldest()))},
		{"Window", windowCell(g)},
		{"Interval", text(spanOf(g.GetCheckpointInterval()))},
		{"Lag", text(lagText(g.GetLag()))},
	})
	if len(g.GetConditions()) > 0 {
		p.section("Conditions")
		p.showConditions(g.GetConditions())
	}
	p.section(fmt.Sprintf("Members (%d)", len(m.GetMembers())))
	if len(m.GetMembers()) == 0 {
		p.line("  none")
	} else {
		p.showVolumes("  ", m.GetMembers(), false)
	}
	if len(m.GetHistory()) > 0 {
		p.section("History")
		p.showHistory(m)
	}
	if len(m.GetTimelines()) > 0 {
		p.section("Timelines")
		p.showTimelines(m.GetTimelines())
	}
	if len(m.GetPinned()) > 0 {
		p.section("Pins")
		p.showPins(m.GetPinned())
	}
}

func peerText(g *adminv1.Group) string {
	switch {
	case g.GetPeer() == "":
		return "none: this group is not replicated"
	case g.GetRole() == adminv1.Role_ROLE_REPLICA:
		return g.GetPeer() + ", which feeds this replica"
	default:
		return g.GetPeer() + ", which holds the replica"
	}
}

// windowCell warns when history reaches back less far than wanted.
func windowCell(g *adminv1.Group) cell {
	achieved, wanted := g.GetAchievedWindow(), g.GetWantedWindow()
	if achieved == nil || wanted == nil {
		return text(windowText(g))
	}
	line := fmt.Sprintf("%s achieved of %s wanted", spanOf(achieved), spanOf(wanted))
	if percent := share(achieved.AsDuration(), wanted.AsDuration()); percent < 100 {
		return cell{fmt.Sprintf("%s (%d%%)", line, percent), toneNote}
	}
	return cell{line, toneGood}
}

func lagText(lag *adminv1.Lag) string {
	switch {
	case lag == nil:
		return unknown
	case lag.GetRecords() == 0 && lag.GetBytes() == 0:
		return "none"
	default:
		return fmt.Sprintf("%s: %d records, %s", lagTime(lag), lag.GetRecords(), iec(lag.GetBytes()))
	}
}

func (p *page) showConditions(conditions []*adminv1.Condition) {
	columns := []column{left("CONDITION"), left("STATE"), left("REASON"), left("MESSAGE")}
	var rows [][]cell
	for _, c := range conditions {
		state := cell{"NO", toneBad}
		if c.GetOk() {
			state = cell{"ok", toneGood}
		}
		rows = append(rows, []cell{text(c.GetType()), state, text(c.GetReason()), text(oneLine(c.GetMessage()))})
	}
	p.table("  ", columns, rows)
}

func (p *page) showTimelines(timelines []*adminv1.Timeline) {
	columns := []column{left("TIMELINE"), left("ACTIVE"), left("FORKED AT"), left("CREATED"), right("AGE"), left("REASON")}
	var rows [][]cell
	for _, t := range timelines {
		active := cell{"", tonePlain}
		if t.GetActive() {
			active = cell{"yes", toneGood}
		}
		parent := text("root")
		if t.GetParent() != nil {
			parent = text(positionName(t.GetParent()))
		}
		rows = append(rows, []cell{
			text(timelineName(t.GetId())), active, parent, text(moment(t.GetCreated())), text(age(p.now, t.GetCreated())), text(oneLine(t.GetReason())),
		})
	}
	p.table("  ", columns, rows)
}

func (p *page) showPins(points []*adminv1.Point) {
	columns := []column{right("CHECKPOINT"), left("TIME"), right("AGE"), left("PINS")}
	var rows [][]cell
	for _, point := range points {
		rows = append(rows, []cell{text(checkpointName(point)), text(moment(point.GetTime())), text(age(p.now, point.GetTime())), text(pinText(point))})
	}
	p.table("  ", columns, rows)
}

// showRewindInProgress comes last on the page: it is the one thing that waits
// for a decision.
func (p *page) showRewindInProgress(rewind *adminv1.Rewind, undo, commit string) {
	title := "Rewind in progress"
	if rewind.GetFork() != "" {
		title = "Fork " + rewind.GetFork() + " made production, neither undone nor committed"
	}
	p.section(title + ", started " + age(p.now, rewind.GetStarted()) + " ago")
	for _, f := range []struct{ name, value string }{
		{"now at", pointText(p.now, rewind.GetTo())},
		{"was at", pointText(p.now, rewind.GetFrom())},
		{"go back", undo},
		{"keep it", commit},
	} {
		p.line("  %-7s   %s", f.name, f.value)
	}
}
