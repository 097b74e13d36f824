package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

func (a *app) newViewCommand() *cobra.Command {
	return a.parent("view", "Read-only images of a group at a moment",
		a.newViewOpenCommand(),
		a.newViewCloseCommand(),
		a.newViewListCommand(),
	)
}

// exportVolume is how people know the volume of an export, as volumeName.
func exportVolume(e *adminv1.ViewExport) string { return firstOf(e.GetClaim(), e.GetVolumeName()) }

func (p *page) showExports(indent string, exports []*adminv1.ViewExport) {
	columns := []column{left("VOLUME"), left("NBD URI"), wide(left("VOLUME ID")), wide(left("SOCKET"))}
	var rows [][]cell
	for _, e := range exports {
		rows = append(rows, []cell{text(exportVolume(e)), text(e.GetNbdUri()), text(e.GetVolumeId()), text(e.GetNbdSocket())})
	}
	p.table(indent, columns, rows)
}
