package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

func (a *app) newTimelineCommand() *cobra.Command {
	return a.parent("timeline", "Timelines of a group's members: the present, and what rewinds and failovers left",
		a.newTimelineListCommand(),
	)
}

// timelinesDocument is the output of `lockstep timeline list`.
type timelinesDocument struct {
	Volumes []volumeTimelinesDocument `json:"volumes"`
}

type volumeTimelinesDocument struct {
	VolumeID   string                `json:"volumeID"`
	VolumeName string                `json:"volumeName"`
	Claim      string                `json:"claim"`
	Error      string                `json:"error"`
	Horizon    *string               `json:"horizon"`
	Timelines  []timelineUseDocument `json:"timelines"`
}

type timelineUseDocument struct {
	timelineDocument
	LastSeq  uint64   `json:"lastSeq"`
	Bytes    int64    `json:"bytes"`
	Leads    bool     `json:"leads"`
	Pins     []string `json:"pins"`
	Views    uint32   `json:"views"`
	Orphaned bool     `json:"orphaned"`
}

func volumeTimelinesOf(m *adminv1.VolumeTimelines) volumeTimelinesDocument {
	return volumeTimelinesDocument{
		VolumeID: m.GetVolumeId(), VolumeName: m.GetVolumeName(), Claim: m.GetClaim(), Error: m.GetError(), Horizon: positionOf(m.GetHorizon()),
		Timelines: each(m.GetTimelines(), timelineUseOf),
	}
}

func timelineUseOf(m *adminv1.Timeline) timelineUseDocument {
	return timelineUseDocument{
		timelineDocument: timelineOf(m), LastSeq: m.GetLastSeq(), Bytes: m.GetBytes(), Leads: m.GetLeads(),
		Pins: append([]string{}, m.GetPins()...), Views: m.GetViews(), Orphaned: m.GetOrphaned(),
	}
}

func (a *app) newTimelineListCommand() *cobra.Command {
	var admin adminFlags
	var output outputFlag
	command := &cobra.Command{
		Use:   "list GROUP",
		Short: "List the timelines of every member, with what each takes and what keeps it",
		Long: `Lists the timelines of every member of a group. A rewind, its undo, a commit of a
fork, a failover, and a recovery each begin one, and leave one behind. What was
left is kept by pins (rewind: that of one that is not committed; fork: that of a
writable fork) and by views, and by the history: it goes, and its room with it,
when the horizon has passed the position that it forked at.

Only an open store tells of this. In a cluster the engines of members that rest are
started for it. It fails (exit status 1) when a member cannot be asked, and lists the
others.`,
		Args:              wantArgs("GROUP"),
		ValidArgsFunction: a.completeGroups(&admin),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			return admin.withSite(func(s *site) error {
				group, err := s.group(command.Context(), args[0])
				if err != nil {
					return err
				}
				answer, err := s.ListTimelines(command.Context(), &adminv1.ListTimelinesRequest{Group: group})
				if err != nil {
					return err
				}
				r := result{
					document: timelinesDocument{each(answer.GetVolumes(), volumeTimelinesOf)},
					show:     func(p *page) { p.showTimelineUses(answer.GetVolumes()) },
				}
				for _, v := range answer.GetVolumes() {
					for _, t := range v.GetTimelines() {
						r.names = append(r.names, memberName(v)+"/"+timelineName(t.GetId()))
					}
				}
				if err := a.print(&output, r); err != nil {
					return err
				}
				return whatIsUnknown(answer.GetVolumes())
			})
		}),
	}
	admin.register(a, command)
	output.register(command)
	return command
}

// memberName is how people know a member: by its claim where it has one.
func memberName(v *adminv1.VolumeTimelines) string {
	return firstOf(v.GetClaim(), v.GetVolumeName())
}

// whatIsUnknown is an error where the timelines of a member are not known.
func whatIsUnknown(volumes []*adminv1.VolumeTimelines) error {
	unknown := 0
	for _, v := range volumes {
		if v.GetError() != "" {
			unknown++
		}
	}
	if unknown == 0 {
		return nil
	}
	return fmt.Errorf("the timelines of %d of %d members are not known", unknown, len(volumes))
}

func (p *page) showTimelineUses(volumes []*adminv1.VolumeTimelines) {
	columns := []column{left("VOLUME"), left("TIMELINE"), left("FORKED AT"), right("LAST"), left("CREATED"), right("AGE"), right("TAKES"), left("KEPT BY"), left("REASON"), wide(left("HORIZON"))}
	var rows [][]cell
	for _, v := range volumes {
		for _, t := range v.GetTimelines() {
			parent := "root"
			if t.GetParent() != nil {
				parent = positionName(t.GetParent())
			}
			rows = append(rows, []cell{
				text(memberName(v)), text(timelineName(t.GetId())), text(parent), number(t.GetLastSeq()), text(moment(t.GetCreated())), text(age(p.now, t.GetCreated())),
				text(iecSigned(t.GetBytes())), keptBy(t), text(oneLine(t.GetReason())), text(positionText(v.GetHorizon())),
			})
		}
	}
	p.table("", columns, rows)
	for _, v := range volumes {
		if why := v.GetError(); why != "" {
			p.line("%s", p.paint(cell{oneLine(memberName(v) + ": not known: " + why), toneBad}))
		}
	}
}

// keptBy says why a timeline is there.
func keptBy(t *adminv1.Timeline) cell {
	if t.GetOrphaned() {
		return cell{"history alone", toneNote}
	}
	var by []string
	if t.GetActive() {
		by = append(by, "the present")
	}
	if t.GetLeads() {
		by = append(by, "the present's past")
	}
	if len(t.GetPins()) > 0 {
		by = append(by, "pins "+pinList(t.GetPins()))
	}
	if n := t.GetViews(); n > 0 {
		by = append(by, fmt.Sprintf("%d views or readers", n))
	}
	return text(strings.Join(by, "; "))
}
