package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// volumeScrubDocument is the output of `lockstep volume scrub`.
type volumeScrubDocument struct {
	Volume    volumeDocument   `json:"volume"`
	ReadBytes int64            `json:"readBytes"`
	Took      *string          `json:"took"`
	Damaged   []damageDocument `json:"damaged"`
	Repaired  []repairDocument `json:"repaired"`
	Peer      string           `json:"peer"`
	PeerError string           `json:"peerError"`
}

type damageDocument struct {
	File        string `json:"file"`
	OffsetBytes int64  `json:"offsetBytes"`
	What        string `json:"what"`
	Wanted      string `json:"wanted"`
	Found       string `json:"found"`
	Reason      string `json:"reason"`
}

type repairDocument struct {
	File        string `json:"file"`
	OffsetBytes int64  `json:"offsetBytes"`
	What        string `json:"what"`
}

func (a *app) newVolumeScrubCommand() *cobra.Command {
	var admin adminFlags
	var output outputFlag
	var repair bool
	command := &cobra.Command{
		Use:   "scrub VOLUME",
		Short: "Read all of a volume's store now, and repair what is damaged",
		Long: `Reads all that the store of a volume has, compares it with its checksums, and names
what is damaged. ` + a.whatVolumeIs() + ` The volume
serves meanwhile. It does at once what the site does in its own time (--scrub-every).

With --repair the other site of a replicated volume is asked at once for what is
damaged, also for what it could not help with before. What the store can mend by
itself it mends in any case.

It fails (exit status 1) when damage is left. Interrupted, the scrub goes on in the
site's own time.` + a.howAClusterScrubs(),
		Args: wantArgs("VOLUME"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			return admin.withSite(func(s *site) error {
				volume, err := s.route.volume(args[0])
				if err != nil {
					return err
				}
				ctx, cancel := command.Context(), context.CancelFunc(func() {})
				if admin.timeout > 0 {
					ctx, cancel = context.WithTimeout(ctx, admin.timeout)
				}
				defer cancel()
				stream, err := s.ScrubVolume(ctx, &adminv1.ScrubVolumeRequest{Volume: volume, Repair: repair})
				if err != nil {
					return s.explainCall(err, "ScrubVolume")
				}
				report, err := a.awaitScrub(stream)
				if err != nil {
					return s.explainCall(err, "ScrubVolume")
				}
				if err := a.print(&output, scrubResult(report, repair)); err != nil {
					return err
				}
				if n := len(report.GetDamaged()); n > 0 {
					return fmt.Errorf("volume %s is damaged in %d places", volumeName(report.GetVolume()), n)
				}
				return nil
			})
		}),
	}
	command.Flags().BoolVar(&repair, "repair", false, "ask the volume's peer for what is damaged")
	admin.registerSite(a, command)
	command.Flags().DurationVar(&admin.timeout, "timeout", 0, "stop waiting after this long; the scrub goes on in the site's own time; 0 waits for its end")
	output.register(command)
	return command
}

func (a *app) whatVolumeIs() string {
	if a.isPlugin() {
		return "VOLUME is the claim that it is for, or its id."
	}
	return "VOLUME is its id, or its name if no other volume has it."
}

// howAClusterScrubs is what there is to know where an engine has to be found.
func (a *app) howAClusterScrubs() string {
	if !a.isPlugin() {
		return ""
	}
	return `

The engine of a volume that is not in use is started for it. The command also fails
when no engine answers within 45 s, or when the engine ends before the scrub is
through; run it again then. Where somebody scrubs the volume already, the command
follows that, and tells the same at its end.`
}

// awaitScrub shows how far it is until the report comes.
func (a *app) awaitScrub(stream adminv1.Admin_ScrubVolumeClient) (*adminv1.ScrubReport, error) {
	var newest atomic.Pointer[adminv1.ScrubProgress]
	stop := a.progressOf(func() string { return scrubText(newest.Load()) })
	defer stop()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the site ended the scrub without a report")
		}
		if err != nil {
			return nil, err
		}
		if report := m.GetReport(); report != nil {
			return report, nil
		}
		newest.Store(m.GetProgress())
	}
}

func scrubText(p *adminv1.ScrubProgress) string {
	if p == nil {
		return "scrubbing"
	}
	if p.GetWaiting() {
		return "waiting for the volume's engine"
	}
	text := fmt.Sprintf("scrubbing: %s of %s", iecSigned(p.GetReadBytes()), iecSigned(p.GetTotalBytes()))
	if p.GetRepairing() {
		text = "asking for what is damaged"
	}
	if n := p.GetDamaged(); n > 0 {
		text += fmt.Sprintf(", %d places damaged", n)
	}
	return text
}

func scrubResult(r *adminv1.ScrubReport, repair bool) result {
	return result{
		document: volumeScrubDocument{
			Volume: volumeOf(r.GetVolume()), ReadBytes: r.GetReadBytes(), Took: durationText(r.GetTook()), Peer: r.GetPeer(), PeerError: r.GetPeerError(),
			Damaged: each(r.GetDamaged(), func(d *adminv1.Damage) damageDocument {
				return damageDocument{d.GetFile(), d.GetOffset(), d.GetWhat(), d.GetWanted(), d.GetFound(), d.GetReason()}
			}),
			Repaired: each(r.GetRepaired(), func(p *adminv1.Repaired) repairDocument {
				return repairDocument{p.GetFile(), p.GetOffset(), p.GetWhat()}
			}),
		},
		names: []string{r.GetVolume().GetId()},
		show:  func(p *page) { p.showScrub(r, repair) },
	}
}

func (p *page) showScrub(r *adminv1.ScrubReport, repair bool) {
	v := r.GetVolume()
	state := cell{"sound", toneGood}
	if len(r.GetDamaged()) > 0 {
		state = cell{"DAMAGED", toneBad}
	}
	p.fields([]field{
		{"Volume", text(fmt.Sprintf("%s (%s)", volumeName(v), v.GetId()))}, {"State", state},
		{"Read", text(fmt.Sprintf("%s in %s", iecSigned(r.GetReadBytes()), spanOf(r.GetTook())))},
	})
	from := "by itself"
	if r.GetPeer() != "" {
		from = "with site " + r.GetPeer()
	}
	for _, d := range r.GetRepaired() {
		p.line("  %s", p.paint(cell{oneLine(fmt.Sprintf("repaired %s: %s at offset %d of %s", from, d.GetWhat(), d.GetOffset(), d.GetFile())), toneGood}))
	}
	for _, d := range r.GetDamaged() {
		line := fmt.Sprintf("damaged: %s at offset %d of %s: wanted %s, found %s", d.GetWhat(), d.GetOffset(), d.GetFile(), d.GetWanted(), d.GetFound())
		if d.GetReason() != "" {
			line += "; not repaired: " + d.GetReason()
		}
		p.line("  %s", p.paint(cell{oneLine(line), toneBad}))
	}
	if r.GetPeerError() != "" {
		p.line("  %s", p.paint(cell{oneLine(r.GetPeerError()), toneNote}))
	}
	if len(r.GetDamaged()) > 0 && !repair {
		p.line("  --repair asks the volume's peer for what is damaged")
	}
}
