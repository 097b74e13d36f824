package main

import (
	"fmt"
	"strings"
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

// selectorName is what --at takes for a point: its number, or what keeps it where that is
// on a timeline that was left.
func selectorName(p *adminv1.Point) string {
	if len(p.GetLeft()) > 0 && len(p.GetPins()) > 0 {
		return pinMark + p.GetPins()[0]
	}
	return checkpointName(p)
}

// pinText is a point's pins, and that they keep what was left.
func pinText(p *adminv1.Point) string {
	if len(p.GetLeft()) > 0 {
		return pinList(p.GetPins()) + " (left behind)"
	}
	return pinList(p.GetPins())
}

// leftList is where members have a point that was left; empty: it was not.
func leftList(at []*adminv1.MemberPosition) string {
	return strings.Join(each(at, func(m *adminv1.MemberPosition) string { return positionName(m.GetPosition()) }), ",")
}

// pointText names a point in a sentence.
func pointText(now time.Time, p *adminv1.Point) string {
	if p == nil {
		return "no recovery point"
	}
	return fmt.Sprintf("checkpoint %d, %s ago (%s)", p.GetCheckpoint(), pointAge(now, p), moment(p.GetTime()))
}
