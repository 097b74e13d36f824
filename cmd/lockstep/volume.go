package main

import (
	"fmt"
	"slices"
	"time"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// volumeName is how people know a volume: by its claim in a cluster, where its
// own name is one that a provisioner made up; elsewhere by its name.
func volumeName(v interface {
	GetClaim() string
	GetName() string
}) string {
	return firstOf(v.GetClaim(), v.GetName())
}

// showVolumes writes one row for each volume, and below the table the error of
// each that has failed, or is not served as was asked for: that does not fit into a
// column. Beside claims are the volumes' ids, which pods and logs are named by.
func (p *page) showVolumes(indent string, volumes []*adminv1.Volume, withGroup bool) {
	name, id := left("VOLUME"), wide(left("ID"))
	if slices.ContainsFunc(volumes, func(v *adminv1.Volume) bool { return v.GetClaim() != "" }) {
		name, id = left("CLAIM"), left("VOLUME")
	}
	columns := []column{
		name, id, left("GROUP"), right("SIZE"), left("ROLE"), left("DEVICE"), right("TIP"), wide(right("DURABLE")), wide(right("HORIZON")),
		right("JOURNAL"), wide(right("THINNED")), wide(right("INDEX")), wide(right("EXTENTS")), right("LAG"), left("STATE"), wide(left("STORE")),
	}
	var rows [][]cell
	for _, v := range volumes {
		state := cell{"ok", toneGood}
		switch {
		case v.GetError() != "":
			state = cell{"STOPPED", toneBad}
		case v.GetDeviceError() != "":
			state = cell{"NO DEVICE", toneBad}
		case v.GetDamaged() > 0:
			state = cell{"DAMAGED", toneBad}
		}
		rows = append(rows, []cell{
			text(volumeName(v)), text(v.GetId()), text(v.GetGroup()), text(iecSigned(v.GetSizeBytes())), text(roleText(v.GetRole())), text(v.GetDevice()),
			text(positionText(v.GetTip())), text(positionText(v.GetDurable())), text(positionText(v.GetHorizon())),
			text(iecSigned(v.GetJournalBytes())), text(iecSigned(v.GetThinnedBytes())), text(iecSigned(v.GetIndexBytes())), number(uint64(max(v.GetIndexExtents(), 0))),
			text(lagTime(v.GetLag())), state, text(v.GetStore()),
		})
	}
	if !withGroup {
		columns, rows = withoutColumn(columns, rows, 2)
	}
	p.table(indent, columns, rows)
	for _, v := range volumes {
		if v.GetError() != "" {
			p.line("%s%s", indent, p.paint(cell{volumeName(v) + ": " + oneLine(v.GetError()), toneBad}))
		}
		if why := v.GetDeviceError(); why != "" {
			p.line("%s%s", indent, p.paint(cell{volumeName(v) + ": " + oneLine(why), toneBad}))
		}
		if n := v.GetDamaged(); n > 0 {
			p.line("%s%s", indent, p.paint(cell{fmt.Sprintf("%s: damaged in %d places, %d of which could not be repaired: see `volume scrub %s`", volumeName(v), n, v.GetUnrepairable(), v.GetId()), toneBad}))
		}
		if why := v.GetTransportFallback(); why != "" {
			p.line("%s%s", indent, p.paint(cell{volumeName(v) + ": served over " + v.GetTransport() + ": " + oneLine(why), toneNote}))
		}
	}
}

func withoutColumn(columns []column, rows [][]cell, drop int) ([]column, [][]cell) {
	kept := append(append([]column{}, columns[:drop]...), columns[drop+1:]...)
	cut := make([][]cell, 0, len(rows))
	for _, row := range rows {
		cut = append(cut, append(append([]cell{}, row[:drop]...), row[drop+1:]...))
	}
	return kept, cut
}

// share is part of whole in percent, rounded down, and 100 when nothing is
// wanted.
func share(part, whole time.Duration) int {
	if whole <= 0 {
		return 100
	}
	return int(part.Seconds() / whole.Seconds() * 100)
}
