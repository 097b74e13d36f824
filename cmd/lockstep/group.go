package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// completionTimeout bounds what a person waits for after pressing Tab.
const completionTimeout = 2 * time.Second

func (a *app) newGroupCommand() *cobra.Command {
	return a.parent("group", "Consistency groups",
		a.newGroupListCommand(),
		a.newGroupDescribeCommand(),
	)
}

// completeGroups offers the names of the site's groups to the shell.
func (a *app) completeGroups(admin *adminFlags) cobra.CompletionFunc {
	return func(command *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		var names []cobra.Completion
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		err := admin.withSite(func(s *site) error {
			ctx, cancel := context.WithTimeout(command.Context(), completionTimeout)
			defer cancel()
			answer, err := s.ListGroups(ctx, &adminv1.ListGroupsRequest{})
			for _, group := range answer.GetGroups() {
				names = append(names, group.GetName())
			}
			return err
		})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func (p *page) showGroups(indent string, groups []*adminv1.Group) {
	columns := []column{
		left("NAME"), left("ROLE"), right("TERM"), left("PEER"), right("MEMBERS"), right("NEWEST"), right("AGE"),
		left("WINDOW"), right("LAG"), wide(right("LAG BYTES")), wide(right("LAG RECORDS")), wide(right("INTERVAL")), left("STATE"),
	}
	var rows [][]cell
	for _, g := range groups {
		rows = append(rows, []cell{
			text(g.GetName()), text(roleText(g.GetRole())), number(g.GetTerm()), text(g.GetPeer()), number(uint64(g.GetMembers())),
			text(checkpointCell(g.GetNewest())), text(pointAge(p.now, g.GetNewest())), text(windowText(g)),
			text(lagTime(g.GetLag())), text(lagBytes(g.GetLag())), text(lagRecords(g.GetLag())), text(spanOf(g.GetCheckpointInterval())),
			groupState(g),
		})
	}
	p.table(indent, columns, rows)
}

// groupState is a few words: first whether the group serves, then what else a
// person should know.
func groupState(g *adminv1.Group) cell {
	serving, notes := true, []string(nil)
	if g.GetRewind() != nil {
		notes = append(notes, "rewind not committed")
	}
	for _, c := range g.GetConditions() {
		if c.GetOk() {
			continue
		}
		serving = serving && c.GetType() != readyCondition
		notes = append(notes, firstOf(c.GetReason(), "not "+c.GetType()))
	}
	switch {
	case !serving:
		return cell{"NOT READY: " + strings.Join(notes, ", "), toneBad}
	case len(notes) > 0:
		return cell{"ready, " + strings.Join(notes, ", "), toneNote}
	default:
		return cell{"ready", toneGood}
	}
}

func windowText(g *adminv1.Group) string {
	if g.GetAchievedWindow() == nil && g.GetWantedWindow() == nil {
		return unknown
	}
	return fmt.Sprintf("%s of %s", spanOf(g.GetAchievedWindow()), spanOf(g.GetWantedWindow()))
}

func lagTime(lag *adminv1.Lag) string {
	return spanOf(lag.GetTime())
}

func lagBytes(lag *adminv1.Lag) string {
	if lag == nil {
		return unknown
	}
	return iec(lag.GetBytes())
}

func lagRecords(lag *adminv1.Lag) string {
	if lag == nil {
		return unknown
	}
	return strconv.FormatUint(lag.GetRecords(), 10)
}

func number(n uint64) cell { return text(strconv.FormatUint(n, 10)) }

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return unknown
}

// oneLine keeps a foreign text from breaking a table.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
