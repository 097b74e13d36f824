package journal

// leapWriter fills a segment of a leap with the frames of records that come from
// another site.
type leapWriter struct {
	thinWriter
	durable         Seq // what was so when the leap began
	frames          int64
	changes, points int
	infoBytes       int64
}

func newLeapWriter(s *Store, g *segment, durable Seq) *leapWriter {
	return &leapWriter{durable: durable,
		thinWriter: thinWriter{s: s, g: g, index: newExtentMap(), buf: make([]byte, 0, destageBufferBytes), off: blockBytes}}
}

// fits reports whether a segment of the usual size has room for a record and then for its
// footer, and its entry in the catalog for a change of size. sizeBytes is that of
// the volume before the record.
func (w *leapWriter) fits(r *Record, sizeBytes int64) bool {
	if len(w.g.sizes) == maxSegmentSizes && sizeAfter(r, sizeBytes) > sizeBytes {
		return false
	}
	changes, points, infoBytes := w.changes+1, w.points, w.infoBytes
	if r.Kind == KindCheckpoint {
		points, infoBytes = points+1, infoBytes+infoRoomBytes(len(r.Payload))
	}
	return blockBytes+w.frames+frameBytes(len(r.Payload))+footerBytes(changes, points, infoBytes) <= w.s.cfg.SegmentBytes
}

// add appends a record's frame; not durable, and perhaps not written, on return.
func (w *leapWriter) add(r *Record, sizeBytes int64) error {
	n := frameBytes(len(r.Payload))
	if len(w.buf) > 0 && int64(len(w.buf))+n > int64(cap(w.buf)) {
		if err := w.flush(); err != nil {
			return err
		}
	}
	at := w.off + int64(len(w.buf))
	var header [frameHeaderBytes]byte
	putFrameHeader(header[:], r, w.durable, w.g.volume)
	w.buf = append(append(w.buf, header[:]...), r.Payload...)
	w.buf = append(w.buf, padding[:n-frameHeaderBytes-int64(len(r.Payload))]...)
	w.frames += n
	w.g.end = at + n
	if after := sizeAfter(r, sizeBytes); after > sizeBytes {
		w.g.sizes = append(w.g.sizes, sizeChange{r.Position.Seq, after})
	}
	w.changes++
	f := frame{Record: *r, off: at}
	switch r.Kind {
	case KindWrite, KindDiscard, KindZero:
		c := changeOf(w.g, &f)
		w.index.insert(c.start, c.end, c.loc)
	case KindCheckpoint:
		c, err := checkpointOf(r)
		if err != nil {
			return err
		}
		w.points, w.infoBytes = w.points+1, w.infoBytes+infoRoomBytes(len(r.Payload))
		w.g.checkpoints = append(w.g.checkpoints, c)
		w.g.times.add(c.Time, w.g.thinned)
	}
	return nil
}
