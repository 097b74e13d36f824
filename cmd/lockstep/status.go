package main

import (
	"context"

	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

func (a *app) newStatusCommand() *cobra.Command {
	var admin adminFlags
	var output outputFlag
	var wait bool
	command := &cobra.Command{
		Use:   "status",
		Short: "Show the site: peers, groups, volumes",
		Long: `Shows the site, its peers, groups and volumes. It succeeds whenever the site
answers. With --wait it succeeds once the site answers and every group is ready.`,
		Args: wantArgs(),
		RunE: a.runs(func(command *cobra.Command, _ []string) error {
			return admin.withSite(func(s *site) error {
				answer, err := a.fetchStatus(command.Context(), s, wait)
				if err != nil {
					return err
				}
				return a.print(&output, result{
					document: statusOf(answer),
					names:    []string{answer.GetSite()},
					show:     func(p *page) { p.showStatus(answer, s.route.address()) },
				})
			})
		}),
	}
	admin.register(a, command)
	output.register(command)
	registerWait(command, &wait, "wait until the site answers and every group is ready")
	return command
}

func (a *app) fetchStatus(ctx context.Context, s *site, wait bool) (*adminv1.GetStatusResponse, error) {
	if wait {
		return a.waitSite(ctx, s)
	}
	return s.GetStatus(ctx, &adminv1.GetStatusRequest{})
}

func (p *page) showStatus(m *adminv1.GetStatusResponse, admin string) {
	p.fields([]field{
		{"Site", text(m.GetSite())},
		{"Version", text(m.GetVersion())},
		{"Up", text(age(p.now, m.GetStarted()))},
		{"Admin", text(admin)},
	})
	p.section("Peers")
	if len(m.GetPeers()) == 0 {
		p.line("  none")
	} else {
		p.showPeers(m.GetPeers())
	}
	p.section("Groups")
	if len(m.GetGroups()) == 0 {
		p.line("  none")
	} else {
		p.showGroups("  ", m.GetGroups())
	}
	p.section("Volumes")
	if len(m.GetVolumes()) == 0 {
		p.line("  none")
	} else {
		p.showVolumes("  ", m.GetVolumes(), true)
	}
}

func (p *page) showPeers(peers []*adminv1.Peer) {
	columns := []column{left("SITE"), left("ADDRESS"), left("STATE"), right("HEARD"), left("LAST ERROR")}
	var rows [][]cell
	for _, peer := range peers {
		state := cell{"unreachable", toneBad}
		switch {
		case peer.GetConnected():
			state = cell{"connected", toneGood}
		case peer.GetLastError() == "":
			state = cell{"not called", toneNote} // no group here is replicated to it
		}
		rows = append(rows, []cell{
			text(peer.GetSite()), text(peer.GetAddress()), state,
			text(age(p.now, peer.GetSince())), text(oneLine(peer.GetLastError())),
		})
	}
	p.table("  ", columns, rows)
}
