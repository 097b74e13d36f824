package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

// openSealed looks at a segment that the catalog names.
func (in *inspector) openSealed(id segmentID, e segmentEntry) error {
	s := in.s
	g := s.sealedSegment(id, &e)
	s.segments[id] = g // known, whatever is wrong with its file
	if err := in.damage(s.extendLine(g)); err != nil {
		return err
	}
	if err := s.openSegmentFile(g, s.cfg.FS.OpenReadOnly); err != nil {
		g.file = nil
		return in.damage(err)
	}
	in.files = append(in.files, g.file)
	return in.damage(g.checkHeader())
}

// openOthers looks at the other files of the journal as recovery would.
func (in *inspector) openOthers() error {
	s := in.s
	names, err := s.cfg.FS.ReadDir(s.cfg.file(journalDir))
	if err != nil {
		return err
	}
	s.runs.find(names)
	s.findReplaced(names)
	for _, name := range names {
		id, ok := parseSegmentName(name)
		if _, known := s.segments[id]; !ok || known {
			continue
		}
		c := &candidate{name: segmentName(id)}
		if c.file, err = s.cfg.FS.OpenReadOnly(s.cfg.file(c.name)); err != nil {
			return err
		}
		in.files = append(in.files, c.file)
		in.found = append(in.found, c)
		if err := in.damage(s.classify(c, id)); err != nil {
			return err
		}
	}
	damaged := false
	_, err = s.extendLines(in.found, func(err error) error {
		damaged = true
		return in.damage(err)
	})
	if err != nil || damaged {
		return err // what follows would only repeat it
	}
	return in.checkRecovery()
}

// checkRecovery is what recovery checks before it changes anything.
func (in *inspector) checkRecovery() error {
	if err := in.damage(in.s.checkFloor()); err != nil {
		return err
	}
	for _, c := range in.found {
		if c.kept {
			continue
		}
		if err := in.damage(in.s.checkUnused(c)); err != nil {
			return err
		}
	}
	return in.damage(in.s.checkPaths())
}

// verifySegments reads every record.
func (in *inspector) verifySegments(ctx context.Context) error {
	for _, g := range in.s.segments {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := in.verifySegment(g)
		if err != nil {
			return err
		}
		in.report.Segments = append(in.report.Segments, r)
	}
	for _, c := range in.found {
		if !c.kept {
			in.report.Segments = append(in.report.Segments, SegmentReport{File: c.name, State: "free", Bytes: c.size})
		}
	}
	for _, name := range in.s.replaced {
		size, err := in.s.cfg.FS.Stat(in.s.cfg.file(name))
		if err != nil {
			return err
		}
		in.report.Segments = append(in.report.Segments, SegmentReport{File: name, State: "free", Bytes: size})
	}
	slices.SortFunc(in.report.Segments, func(a, b SegmentReport) int { return cmp.Compare(a.File, b.File) })
	return nil
}

// thinnedText is the interval that the segment was thinned to; empty if it has
// all its records.
func (g *segment) thinnedText() string {
	if g.thinned == 0 {
		return ""
	}
	if g.thinned == pinsOnly {
		return "pins"
	}
	return formatDays(g.thinned)
}

func (in *inspector) verifySegment(g *segment) (SegmentReport, error) {
	r := SegmentReport{
		File: g.name, State: "unsealed", Timeline: g.timeline.String(),
		First: uint64(g.first), Last: uint64(g.last), Bytes: g.bytes, EndBytes: g.end,
	}
	if g.sealed {
		r.State = "sealed"
	}
	r.Thinned = g.thinnedText()
	before := len(in.report.Damage)
	if g.file != nil {
		if err := in.verifyRecords(g, &r); err != nil {
			return r, err
		}
	}
	r.Damaged = len(in.report.Damage) > before || slices.ContainsFunc(in.report.Damage, func(d Damage) bool { return d.File == g.name })
	return r, nil
}

// verifyRecords reads a segment's frames and compares them with the footer.
func (in *inspector) verifyRecords(g *segment, r *SegmentReport) error {
	m, points := newExtentMap(), []Checkpoint(nil)
	grown, size := &segment{}, in.s.sizeBefore(g)
	whole := true
	err := walkFrames(g, g.end, func(f *frame) error {
		r.Records++
		size = grown.noteSize(&f.Record, size)
		switch f.Kind {
		case KindCheckpoint:
			c, err := checkpointOf(&f.Record)
			if err != nil {
				return in.damage(locate(err, g.name, f.off))
			}
			points = append(points, c)
		case KindWrite, KindDiscard, KindZero:
			c := changeOf(g, f)
			m.insert(c.start, c.end, c.loc)
		}
		return nil
	}, func(err error) error {
		whole = false
		return in.damage(err)
	})
	r.Checkpoints = len(points)
	if err != nil || !g.sealed {
		return err
	}
	t, err := g.readTrailer()
	if err != nil {
		return in.damage(err)
	}
	f, err := g.readFooterBody(&t)
	if err != nil {
		return in.damage(err)
	}
	g.extents, g.footerCRC = len(f.extents), t.bodyCRC
	bad := func(what string, wanted, found any) error {
		return in.damage(&CorruptError{File: g.name, Offset: f.offset(), What: what, Wanted: fmt.Sprint(wanted), Found: fmt.Sprint(found)})
	}
	switch {
	case f.last != g.last || f.end != g.end:
		return bad("segment trailer", fmt.Sprintf("last %d end %d", g.last, g.end), fmt.Sprintf("last %d end %d", f.last, f.end))
	case !whole:
		return nil // the records that the footer describes are not all there
	case !slices.Equal(f.extents, m.table()):
		return bad("segment footer", "the extents of the records", "others")
	case !slices.EqualFunc(f.checkpoints, points, sameCheckpoint):
		return bad("segment footer", "the checkpoints of the records", "others")
	case !in.s.straddlesBase(g) && !slices.Equal(g.sizes, grown.sizes):
		return in.damage(&CorruptError{File: catalogFile, What: "sizes of " + g.name, Wanted: fmt.Sprint(grown.sizes), Found: fmt.Sprint(g.sizes)})
	}
	return nil
}

func sameCheckpoint(a, b Checkpoint) bool {
	return a.Number == b.Number && a.Time.Equal(b.Time) && a.Position == b.Position &&
		a.Group == b.Group && slices.Equal(a.Members, b.Members)
}

// walkFrames calls each for every whole frame of a segment up to limit. Where
// one is damaged it calls damage and goes on with the next whole one behind
// it. Either ends the walk by an error.
func walkFrames(g *segment, limit int64, each func(*frame) error, damage func(error) error) error {
	scanner := newFrameScanner(g, limit)
	for scanner.next <= g.last {
		f, err := scanner.scan()
		if scanner.gaps && errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			if err := each(&f); err != nil {
				return err
			}
			continue
		}
		if errors.Is(err, io.EOF) {
			err = &CorruptError{File: g.name, Offset: scanner.off, What: "segment", Wanted: fmt.Sprintf("records up to seq %d", g.last), Found: fmt.Sprintf("end at seq %d", scanner.next-1)}
		}
		if !errors.Is(err, ErrCorrupt) {
			return err
		}
		if err := damage(err); err != nil {
			return err
		}
		next, off, err := findFrame(g.file, g.name, g.volume, scanner.off+frameAlign, limit, func(r *Record, _ Seq) bool {
			return r.Position.Timeline == g.timeline && (r.Position.Seq > scanner.next || scanner.gaps && r.Position.Seq == scanner.next) && r.Position.Seq <= g.last
		})
		if err != nil || next == nil {
			return err
		}
		scanner.off, scanner.next = off, next.Position.Seq
	}
	return nil
}
