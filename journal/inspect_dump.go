package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// DumpOptions choose what Dump prints.
type DumpOptions struct {
	// From and To bound the records, both included, on the path to To. A zero
	// To is the tip, a zero From the oldest record kept.
	From, To Position
	Records  bool // print records
	JSON     bool // one JSON object a line instead of text of fixed width
}

// Dump prints a store's identity, timelines and segments, and with
// DumpOptions.Records its records. It changes nothing. Damage is printed where
// it is found, all of it that is met, and then is an error too: ErrCorrupt, or what
// its kind says. Of cfg only FS, Dir and JournalDir count.
// Other errors: ErrNotStore, ErrNoJournal, ErrInUse, ErrUnknownPosition and ErrHorizon
// for From and To, an I/O error, or that of ctx.
func Dump(ctx context.Context, cfg Config, w io.Writer, options DumpOptions) error {
	in, err := inspect(cfg)
	if err != nil {
		return fmt.Errorf("dump store %s: %w", cfg.Dir, err)
	}
	d := dumper{inspector: in, w: w, json: options.JSON}
	d.printStore()
	if options.Records && d.err == nil && in.s.state.Active != 0 {
		d.err = d.printRecords(ctx, options.From, options.To)
	}
	if err := in.report.firstDamage(); err != nil && d.err == nil {
		d.err = fmt.Errorf("%d places are damaged, the first one: %w", len(in.report.Damage), err)
	}
	if err := errors.Join(d.err, in.close()); err != nil {
		return fmt.Errorf("dump store %s: %w", cfg.Dir, err)
	}
	return nil
}

// dumper prints until the first error.
type dumper struct {
	*inspector
	w    io.Writer
	json bool
	err  error
}

// print writes a line: value in JSON, with its type, or else the text.
func (d *dumper) print(kind string, value any, format string, args ...any) {
	if d.err != nil {
		return
	}
	if !d.json {
		_, d.err = fmt.Fprintf(d.w, format+"\n", args...)
		return
	}
	d.err = json.NewEncoder(d.w).Encode(map[string]any{"type": kind, kind: value})
}

func (d *dumper) printStore() {
	r := d.report
	head := struct {
		Volume    string `json:"volume"`
		Version   int    `json:"version"`
		SizeBytes int64  `json:"sizeBytes"`
		Active    string `json:"active"`
		Base      string `json:"base"`
		Horizon   string `json:"horizon"`
		Tip       string `json:"tip"`
		Clean     bool   `json:"clean"`
	}{r.Volume, r.Version, r.SizeBytes, r.Active, r.Base, r.Horizon, r.Tip, r.Clean}
	d.print("store", head, "store      volume %s  version %d  size %d  clean %t\n           base %s  horizon %s  tip %s",
		r.Volume, r.Version, r.SizeBytes, r.Clean, r.Base, r.Horizon, r.Tip)
	for _, t := range r.Timelines {
		d.print("timeline", t, "timeline   %s  parent %-33s  last %016d  %s  %s", t.ID, t.Parent, t.Last, t.Created.Format("2006-01-02T15:04:05.000Z"), t.Reason)
	}
	for _, p := range r.Pins {
		d.print("pin", p, "pin        %s  %s", p.Position, p.Name)
	}
	for _, id := range sortedSegments(d.s) {
		g := d.s.segments[id]
		s := SegmentReport{File: g.name, State: "unsealed", Timeline: g.timeline.String(), First: uint64(g.first), Last: uint64(g.last), Bytes: g.bytes, EndBytes: g.end}
		if g.sealed {
			s.State = "sealed"
		}
		s.Thinned = g.thinnedText()
		d.printSegment(s)
	}
	for _, c := range d.found {
		if !c.kept {
			d.printSegment(SegmentReport{File: c.name, State: "free", Bytes: c.size})
		}
	}
	for _, x := range r.Damage {
		d.printDamage(x)
	}
}

func sortedSegments(s *Store) []segmentID {
	ids := make([]segmentID, 0, len(s.segments))
	for id := range s.segments {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (d *dumper) printSegment(s SegmentReport) {
	thinned := s.Thinned
	if thinned != "" {
		thinned = "  thinned to " + thinned
	}
	d.print("segment", s, "segment    %s  %-8s  %16s  %016d-%016d  end %10d of %10d%s", s.File, s.State, s.Timeline, s.First, s.Last, s.EndBytes, s.Bytes, thinned)
}

func (d *dumper) printDamage(x Damage) {
	d.print("damage", x, "damage     %s at %d: %s: wanted %s, found %s", x.File, x.Offset, x.What, x.Wanted, x.Found)
}

// recordLine is a record as Dump prints it.
type recordLine struct {
	Position   string `json:"position"`
	Kind       string `json:"kind"`
	Offset     int64  `json:"offset"`
	Length     int64  `json:"length"`
	PayloadCRC string `json:"payloadCRC"`
	Durable    uint64 `json:"durable"` // highest durable seq when it was appended
	File       string `json:"file"`
	FileOffset int64  `json:"fileOffset"`
}

func (d *dumper) printRecords(ctx context.Context, from, to Position) error {
	if to.Timeline == 0 {
		to = d.s.tipLocked()
	}
	path, err := d.s.tree.path(d.s.state.Base, to)
	if err != nil {
		return err
	}
	if from.Timeline != 0 && !path.Contains(from) {
		return fmt.Errorf("find %s on the path to %s: %w", from, to, ErrUnknownPosition)
	}
	for _, part := range d.s.partsLocked(path) {
		if part.file == nil || part.upTo < from.Seq {
			continue
		}
		err := walkFrames(part.segment, part.end, func(f *frame) error {
			if f.Position.Seq < from.Seq || f.Position.Seq > part.upTo {
				return ctx.Err()
			}
			d.printRecord(part.name, f)
			return errors.Join(d.err, ctx.Err())
		}, func(err error) error {
			before := len(d.report.Damage)
			err = d.damage(err)
			for _, x := range d.report.Damage[before:] {
				d.printDamage(x)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *dumper) printRecord(file string, f *frame) {
	r := recordLine{f.Position.String(), f.Kind.String(), f.Offset, f.Length, fmt.Sprintf("%08x", f.PayloadCRC), uint64(f.durable), file, f.off}
	d.print("record", r, "record     %s  %-10s  %20d  %20d  crc %s  durable %016d  %s+%010d",
		r.Position, r.Kind, r.Offset, r.Length, r.PayloadCRC, r.Durable, r.File, r.FileOffset)
}
