package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// groupsDocument is the output of `lockstep group list`.
type groupsDocument struct {
	Groups []groupDocument `json:"groups"`
}

func (a *app) newGroupListCommand() *cobra.Command {
	var admin adminFlags
	var output outputFlag
	command := &cobra.Command{
		Use:   "list",
		Short: "List the groups of the site",
		Args:  wantArgs(),
		RunE: a.runs(func(command *cobra.Command, _ []string) error {
			return admin.withSite(func(s *site) error {
				answer, err := s.ListGroups(command.Context(), &adminv1.ListGroupsRequest{})
				if err != nil {
					return err
				}
				if len(answer.GetGroups()) == 0 && output.forPeople() {
					a.hint("no groups: a group is made with its first volume")
					return nil
				}
				r := result{
					document: groupsDocument{each(answer.GetGroups(), groupOf)},
					show:     func(p *page) { p.showGroups("", answer.GetGroups()) },
				}
				for _, group := range answer.GetGroups() {
					r.names = append(r.names, group.GetName())
				}
				return a.print(&output, r)
			})
		}),
	}
	admin.register(a, command)
	output.register(command)
	return command
}
