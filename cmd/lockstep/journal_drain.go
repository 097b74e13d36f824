package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-csi/lockstep/journal"
)

// drainDocument is the output of `lockstep journal drain`.
type drainDocument struct {
	Store        string          `json:"store"`
	Volume       string          `json:"volume"`
	Drained      bool            `json:"drained"`
	Image        string          `json:"image"`
	SizeBytes    int64           `json:"sizeBytes"`
	Tip          string          `json:"tip"`
	Horizon      string          `json:"horizon"` // before
	JournalBytes int64           `json:"journalBytes"`
	Checkpoints  int             `json:"checkpoints"`
	Oldest       *time.Time      `json:"oldest"`
	Newest       *time.Time      `json:"newest"`
	Pins         []string        `json:"pins"`
	Timelines    []drainTimeline `json:"timelines"`
}

// drainTimeline is a timeline that draining gives up.
type drainTimeline struct {
	ID      string    `json:"id"`
	Parent  string    `json:"parent"`
	Created time.Time `json:"created"`
	Reason  string    `json:"reason"`
}

func (a *app) newJournalDrainCommand() *cobra.Command {
	var confirm confirmFlags
	var output outputFlag
	var where storeFlags
	var force bool
	command := &cobra.Command{
		Use:   "drain STORE",
		Short: "Empty the journal into the base image, which is then a plain raw image",
		Long: `Moves everything of the live timeline into the store's base image. STORE/base.img is
then the volume as it is, a raw disk image that needs no Lockstep, and the history is
gone: no moment before the present can be opened any more. The store stays one, with
an empty journal, so that it can be used on.

What others rely on, pins (snapshots, marked points, the way back of a rewind) and
timelines with records of their own, is given up only with --force. A replica on
another site that has not received everything needs a whole image afterwards.

An interrupt or a crash leaves a store that is whole, at the same moment, with a part
of the history gone: run the command again.`,
		Args: wantArgs("STORE"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			cfg, err := where.store(args[0])
			if err != nil {
				return err
			}
			if err := confirm.validate(a, command); err != nil {
				return err
			}
			document, err := a.drainJournal(command.Context(), cfg, &confirm, force)
			if err != nil {
				return err
			}
			return a.print(&output, drainResult(document))
		}),
	}
	command.Flags().BoolVar(&force, "force", false, "give up pins and other timelines as well")
	where.register(command)
	confirm.register(command)
	output.register(command)
	return command
}

func (a *app) drainJournal(ctx context.Context, cfg journal.Config, confirm *confirmFlags, force bool) (drainDocument, error) {
	document, plan, err := planDrain(cfg)
	if err != nil || confirm.dryRun {
		return document, err
	}
	if plan.Held() && !force {
		return document, fmt.Errorf("store %s has %s, which draining would give up: look with --dry-run, and drop pins in the site or pass --force", cfg.Dir, heldText(&document))
	}
	if confirm.asks() {
		if err := a.ask(ctx, "Drain "+cfg.Dir+"? "+lossOf(&document)); err != nil {
			return document, err
		}
	}
	s, err := journal.Open(cfg)
	if err != nil {
		return document, err
	}
	total := s.Stats().JournalBytes
	stop := a.progressOf(func() string {
		return "draining: " + iecSigned(total-s.Stats().JournalBytes) + " of " + iecSigned(total) + " of journal"
	})
	err = s.Drain(ctx, force)
	stop()
	if err = errors.Join(err, s.Close()); errors.Is(err, journal.ErrFull) {
		err = fmt.Errorf("%w: the image grows before its journal goes; make room and run it again", err)
	}
	document.Drained = err == nil
	return document, explainInterrupt(err, "the store is whole, and a part of its history may be gone: run it again")
}

// planDrain looks without changing anything, and refuses what would fail later.
func planDrain(cfg journal.Config) (drainDocument, journal.DrainPlan, error) {
	r, err := openReadOnly(cfg, "copy what it holds, with its site running: `lockstep view open GROUP`, then nbdcopy")
	if err != nil {
		return drainDocument{}, journal.DrainPlan{}, err
	}
	plan, damage, volume := r.DrainPlan(), r.Damage(), r.Volume()
	if err := r.Close(); err != nil {
		return drainDocument{}, plan, err
	}
	if len(damage) > 0 {
		return drainDocument{}, plan, fmt.Errorf("store %s is damaged: %s; see `lockstep journal verify`", cfg.Dir, damageText(damage[0]))
	}
	document := drainDocument{
		Store: cfg.Dir, Volume: volume.String(), Image: journal.BasePath(cfg.Dir), SizeBytes: plan.SizeBytes, Tip: plan.Tip.String(), Horizon: plan.Horizon.String(),
		JournalBytes: plan.JournalBytes, Checkpoints: plan.Checkpoints, Pins: []string{}, Timelines: []drainTimeline{},
	}
	if plan.Checkpoints > 0 {
		oldest, newest := plan.Oldest.UTC(), plan.Newest.UTC()
		document.Oldest, document.Newest = &oldest, &newest
	}
	for name := range plan.Pins {
		document.Pins = append(document.Pins, name)
	}
	slices.Sort(document.Pins)
	for _, line := range plan.Timelines {
		document.Timelines = append(document.Timelines, drainTimeline{line.ID.String(), line.Parent.String(), line.Created, line.Reason})
	}
	return document, plan, nil
}

// lossOf says in a sentence what is given up.
func lossOf(d *drainDocument) string {
	if d.Checkpoints == 0 && len(d.Pins)+len(d.Timelines) == 0 {
		return "It has no recovery points to lose."
	}
	lost := fmt.Sprintf("%d recovery points", d.Checkpoints)
	if d.Oldest != nil {
		lost += fmt.Sprintf(" from %s to %s", d.Oldest.Format(tableTime), d.Newest.Format(tableTime))
	}
	if n := len(d.Pins); n > 0 {
		lost += fmt.Sprintf(", %d pins", n)
	}
	if n := len(d.Timelines); n > 0 {
		lost += fmt.Sprintf(", %d other timelines", n)
	}
	return lost + " are gone then, for good."
}

func drainResult(d drainDocument) result {
	return result{
		document: d,
		names:    []string{d.Image},
		show: func(p *page) {
			if d.Drained {
				p.line("drained: %s is a plain raw image of %s", d.Image, iecSigned(d.SizeBytes))
			} else {
				p.line("would drain %s: %s would be a plain raw image of %s", d.Store, d.Image, iecSigned(d.SizeBytes))
			}
			p.fields([]field{
				{"Volume", text(d.Volume)}, {"At", text(d.Tip)}, {"Given up", text(strings.TrimSuffix(lossOf(&d), " are gone then, for good."))}, {"Journal", text(iecSigned(d.JournalBytes))},
			})
			for _, name := range d.Pins {
				p.line("  pin %s", oneLine(name))
			}
			for _, t := range d.Timelines {
				p.line("  timeline %s from %s: %s", t.ID, t.Parent, oneLine(t.Reason))
			}
		},
	}
}

// heldText names what a drain without --force is refused for.
func heldText(d *drainDocument) string {
	var held []string
	if n := len(d.Pins); n > 0 {
		held = append(held, fmt.Sprintf("%d pins (%s)", n, strings.Join(d.Pins, ", ")))
	}
	if n := len(d.Timelines); n > 0 {
		held = append(held, fmt.Sprintf("%d timelines with records that the present does not have", n))
	}
	return strings.Join(held, " and ")
}
