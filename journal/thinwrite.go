package journal

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// thinOutput is a segment that a rewrite makes.
type thinOutput struct {
	id          segmentID
	first, last Seq
	side        int // of the job's bounds
	thinned     bool
	from, to    int   // survivors [from, to)
	part        int   // the job's part that has last
	bytes       int64 // upper bound
	g           *segment
	moves       []thinMove
}

// thinMove says where the bytes of a record were, and where they are in the new
// segment.
type thinMove struct {
	seq        Seq
	start, end uint64 // sectors
	from, to   location
}

// layOut divides the survivors among new segments and gives these ids. The new
// ones end where they are full, at the job's bounds and at its last exact
// position. errNotWorth if they would be too many, or hardly smaller.
func (s *Store) layOut(job *thinJob, survivors []survivor) ([]*thinOutput, error) {
	l := thinLayout{job: job, room: s.cfg.SegmentBytes, cuts: job.cuts}
	l.divide(survivors)
	if len(job.cuts) > 0 && !l.giveIDs() {
		l = thinLayout{job: job, room: s.cfg.SegmentBytes}
		l.divide(survivors)
	}
	if !l.giveIDs() {
		return nil, errNotWorth
	}
	var before, after int64
	for i := range job.parts {
		before += job.parts[i].bytes
	}
	for _, out := range l.done {
		after += out.bytes
	}
	if after > before-before/8 {
		return nil, errNotWorth
	}
	return l.done, nil
}

// minCutPart is the part of a whole segment that one which ends at a cut has at
// least.
const minCutPart = 4

// thinLayout is the state of layOut.
type thinLayout struct {
	job  *thinJob
	room int64
	done []*thinOutput
	now  *thinOutput
	part int
	side int
	cuts []Seq // of the job's, those to come
	// of the present output
	frames          int64
	changes, points int
	infoBytes       int64
}

func (l *thinLayout) divide(survivors []survivor) {
	job := l.job
	l.begin(job.first(), 0, 0)
	for i := range survivors {
		l.take(i, &survivors[i])
	}
	l.passTo(len(job.parts)-1, len(survivors))
	if job.last() > job.upTo() {
		l.cut(job.upTo(), len(survivors))
	}
	l.end(job.last(), len(survivors))
}

func (l *thinLayout) begin(first Seq, from, part int) {
	l.now = &thinOutput{first: first, from: from, side: l.side, part: part, thinned: first <= l.job.upTo()}
	l.frames, l.changes, l.points, l.infoBytes = 0, 0, 0, 0
}

// end completes the present output.
func (l *thinLayout) end(last Seq, to int) {
	l.now.last, l.now.to, l.now.part = last, to, l.part
	l.now.bytes = l.size(0, 0, 0, 0)
	l.done = append(l.done, l.now)
}

// cut ends the present output behind last, if that has not been done.
func (l *thinLayout) cut(last Seq, to int) {
	if l.now.first <= last {
		l.end(last, to)
		l.begin(last+1, to, l.part)
	}
}

// size is the room that the present output takes with more in it.
func (l *thinLayout) size(frameBytes int64, changes, points int, infoBytes int64) int64 {
	return blockBytes + l.frames + frameBytes + footerBytes(l.changes+changes, l.points+points, l.infoBytes+infoBytes)
}

// passTo goes on to a part, ending outputs at the bounds on the way.
func (l *thinLayout) passTo(part, i int) {
	parts := l.job.parts
	for ; l.part < part; l.part++ {
		if l.job.crosses(parts[l.part].id, parts[l.part+1].id) {
			l.side++
			l.cut(parts[l.part].last, i)
			l.now.side = l.side
		}
	}
}

// take adds the i-th survivor.
func (l *thinLayout) take(i int, v *survivor) {
	for len(l.cuts) > 0 && v.seq > l.cuts[0] {
		if l.size(0, 0, 0, 0) >= l.room/minCutPart {
			l.cut(l.cuts[0], i)
		}
		l.cuts = l.cuts[1:]
	}
	l.passTo(v.part, i)
	if v.seq > l.job.upTo() {
		l.cut(l.job.upTo(), i)
	}
	changes, points, infoBytes := 1, 0, int64(0)
	if v.kind == KindCheckpoint {
		changes, points, infoBytes = 0, 1, infoRoomBytes(int(v.payloadBytes()))
	}
	if l.now.from < i && l.size(v.bytes, changes, points, infoBytes) > l.room {
		l.cut(v.seq-1, i)
	}
	l.frames, l.changes, l.points, l.infoBytes = l.frames+v.bytes, l.changes+changes, l.points+points, l.infoBytes+infoBytes
}

// giveIDs gives the outputs of each side the highest ids of its parts, in
// order, and reports whether there are enough.
func (l *thinLayout) giveIDs() bool {
	ids := map[int][]segmentID{}
	side := 0
	for i := range l.job.parts {
		if i > 0 && l.job.crosses(l.job.parts[i-1].id, l.job.parts[i].id) {
			side++
		}
		ids[side] = append(ids[side], l.job.parts[i].id)
	}
	for i := len(l.done) - 1; i >= 0; i-- {
		of := ids[l.done[i].side]
		if len(of) == 0 {
			return false
		}
		l.done[i].id, ids[l.done[i].side] = of[len(of)-1], of[:len(of)-1]
	}
	return true
}

// writeOutputs makes the files of a rewrite, durable on return, with their names.
// What there is of them when it fails is removed.
func (s *Store) writeOutputs(ctx context.Context, job *thinJob, outputs []*thinOutput, survivors []survivor) (err error) {
	var bytes int64
	for _, out := range outputs {
		bytes += out.bytes
	}
	if err := s.roomToThin(bytes); err != nil {
		return err
	}
	generation := uint32(0)
	for i := range job.parts {
		generation = max(generation, job.parts[i].generation)
	}
	pace := s.newThinPacer()
	for _, out := range outputs {
		if err == nil {
			err = s.writeOutput(ctx, job, out, generation+1, survivors[out.from:out.to], pace)
		}
	}
	if err == nil {
		if err = s.cfg.FS.SyncDir(s.cfg.file(journalDir)); err != nil {
			err = s.poison(err)
		}
	}
	if err != nil {
		s.discardOutputs(outputs)
	}
	return err
}

// roomToThin refuses to begin where the backing volume would have less than
// two segments of room left.
func (s *Store) roomToThin(bytes int64) error {
	_, free, err := s.cfg.FS.Space(s.cfg.file(journalDir))
	if err != nil {
		return fmt.Errorf("find room to thin: %w", err)
	}
	if free < bytes+2*s.cfg.SegmentBytes {
		return errThinLater
	}
	return nil
}

// discardOutputs removes files that nobody knows of.
func (s *Store) discardOutputs(outputs []*thinOutput) {
	for _, out := range outputs {
		if out.g == nil {
			continue
		}
		_ = out.g.file.Close()
		_ = s.cfg.FS.Remove(s.cfg.file(out.g.name)) // a leftover is found by the next Open
		out.g = nil
	}
}

func (s *Store) writeOutput(ctx context.Context, job *thinJob, out *thinOutput, generation uint32, survivors []survivor, pace *pacer) (err error) {
	part := &job.parts[out.part]
	g := &segment{
		id: out.id, volume: s.volume, timeline: job.timeline, first: out.first, last: out.last, end: blockBytes,
		name: rewrittenName(out.id, generation), generation: generation, thinned: part.thinned, closedAt: part.closedAt, sealed: true,
	}
	if out.thinned {
		g.thinned = job.interval
	}
	for i := range job.parts {
		for _, c := range job.parts[i].sizes {
			if c.Seq >= out.first && c.Seq <= out.last {
				g.sizes = append(g.sizes, c)
			}
		}
	}
	g.users.Store(1)
	if err := s.cfg.FS.RemoveAll(s.cfg.file(g.name)); err != nil { // of a rewrite that was given up
		return fmt.Errorf("thin into %s: %w", g.name, err)
	}
	if g.file, err = s.cfg.FS.Create(s.cfg.file(g.name)); err != nil {
		return fmt.Errorf("thin into %s: %w", g.name, mapFull(err))
	}
	out.g = g
	w := thinWriter{s: s, job: job, g: g, index: newExtentMap(), buf: make([]byte, 0, destageBufferBytes), off: blockBytes, pace: pace}
	for i := range survivors {
		if err := w.copyFrame(ctx, &survivors[i]); err != nil {
			return err
		}
	}
	out.moves = w.moves
	return w.finish(s.cfg.Clock.Now())
}

// thinWriter copies frames into a new segment.
type thinWriter struct {
	s       *Store
	job     *thinJob
	g       *segment
	index   *extentMap
	moves   []thinMove
	scanner *frameScanner // of the part that was read last
	part    int
	buf     []byte // not yet written, from off on
	off     int64
	pace    *pacer
	began   int64 // where writeback was last asked for
}

// copyFrame copies a frame as it is. What is copied is what was verified: the frame
// is read once.
func (w *thinWriter) copyFrame(ctx context.Context, v *survivor) error {
	if w.scanner == nil || w.part != v.part {
		p := &w.job.parts[v.part]
		w.scanner, w.part = newFrameScanner(p.segment, p.end), v.part
		w.scanner.gaps = true
	}
	raw, err := w.scanner.bytes(v.off, int(v.bytes))
	if err != nil {
		return err
	}
	w.scanner.off, w.scanner.next = v.off, v.seq
	f, err := w.scanner.scan() // of the same bytes, unless it ends elsewhere
	if err != nil {
		return err
	}
	if got := w.scanner.off - v.off; f.Position.Seq != v.seq || got != v.bytes {
		return &CorruptError{File: w.scanner.name, Offset: v.off, What: "frame",
			Wanted: fmt.Sprintf("seq %d in %d bytes, as read before", v.seq, v.bytes), Found: fmt.Sprintf("seq %d in %d bytes", f.Position.Seq, got)}
	}
	if err := w.note(&f, w.off+int64(len(w.buf))); err != nil {
		return err
	}
	if len(w.buf)+len(raw) > cap(w.buf) {
		if err := w.flush(); err != nil {
			return err
		}
	}
	w.buf = append(w.buf, raw...)
	return w.s.stepThin(ctx, w.pace, v.bytes)
}

// note enters a frame that is at an offset into the new segment's footer.
func (w *thinWriter) note(f *frame, at int64) error {
	placed := *f
	placed.off = at
	w.g.end = placed.end()
	switch f.Kind {
	case KindWrite, KindDiscard, KindZero:
		c, old := changeOf(w.g, &placed), changeOf(w.job.parts[w.part].segment, f)
		w.index.insert(c.start, c.end, c.loc)
		w.moves = append(w.moves, thinMove{c.seq, c.start, c.end, old.loc, c.loc})
	case KindCheckpoint:
		c, err := checkpointOf(&f.Record)
		if err != nil {
			return err
		}
		w.g.checkpoints = append(w.g.checkpoints, c)
		w.g.times.add(c.Time, w.g.thinned)
	}
	return nil
}

// flush writes what was gathered; not durable.
func (w *thinWriter) flush() error {
	if _, err := w.g.file.WriteAt(w.buf, w.off); err != nil {
		return w.failed(err)
	}
	w.off += int64(len(w.buf))
	w.buf = w.buf[:0]
	if w.off-w.began >= writebackBytes {
		// So that the sync at the end has little left to wait for, and the
		// flushes of records meanwhile little to wait behind.
		w.g.file.StartWriteback(w.began, w.off-w.began)
		w.began = w.off
	}
	return nil
}

func (w *thinWriter) failed(err error) error {
	if errors.Is(err, vfs.ErrNoSpace) {
		return fmt.Errorf("write %s: %w", w.g.name, mapFull(err))
	}
	return w.s.poison(fmt.Errorf("write %s: %w", path.Base(w.g.name), err))
}

// finish writes footer and header and makes the file durable.
func (w *thinWriter) finish(now time.Time) error {
	if err := w.flush(); err != nil {
		return err
	}
	g := w.g
	f := footer{
		id: g.id, timeline: g.timeline, first: g.first, last: g.last, end: g.end,
		extents: w.index.table(), checkpoints: g.checkpoints,
	}
	body, _ := f.encode()
	g.bytes = (f.offset()+int64(len(body))+blockBytes-1)&^(blockBytes-1) + blockBytes
	if err := g.writeFooter(f); err != nil {
		return w.failed(err)
	}
	h := segmentHeader{volume: g.volume, id: g.id, timeline: g.timeline, first: g.first, bytes: g.bytes, created: now, generation: g.generation}
	if _, err := g.file.WriteAt(h.encode(), 0); err != nil {
		return w.failed(err)
	}
	if err := g.file.Sync(); err != nil {
		return w.failed(err)
	}
	return nil
}
