package main

import (
	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

// Timelines and positions have one form everywhere: the one that `lockstep journal`
// prints, and takes as --at, --from and --to. Ids are 64 bits, which most readers of
// JSON would round if they were numbers.

func timelineName(id uint64) string { return journal.TimelineID(id).String() }

// positionName is TIMELINE/SEQ; empty: unknown.
func positionName(m *adminv1.Position) string {
	if m == nil {
		return ""
	}
	return journal.Position{Timeline: journal.TimelineID(m.GetTimeline()), Seq: journal.Seq(m.GetSeq())}.String()
}

// positionText is a position in a table.
func positionText(m *adminv1.Position) string { return firstOf(positionName(m)) }

// positionOf is a position in a document; nil: unknown, or none.
func positionOf(m *adminv1.Position) *string {
	if m == nil {
		return nil
	}
	name := positionName(m)
	return &name
}
