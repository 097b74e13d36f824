package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

func (a *app) newPointCommand() *cobra.Command {
	return a.parent("point", "Recovery points",
		a.newPointListCommand(),
		a.newPointTakeCommand(),
		a.newPointDropCommand(),
	)
}

// pointAge is how old the newest write is that the point may lack: a group that
// was idle since has lost nothing, so validUntil counts when it is there.
func pointAge(now time.Time, p *adminv1.Point) string {
	if until := p.GetValidUntil(); until != nil {
		return age(now, until)
	}
	return age(now, p.GetTime())
}

func checkpointCell(p *adminv1.Point) string {
	if p == nil {
		return unknown
	}
	return checkpointName(p)
}

// pointText names a point in a sentence.
func pointText(now time.Time, p *adminv1.Point) string {
	if p == nil {
		return "no recovery point"
	}
	return fmt.Sprintf("checkpoint %d, %s ago (%s)", p.GetCheckpoint(), pointAge(now, p), moment(p.GetTime()))
}
