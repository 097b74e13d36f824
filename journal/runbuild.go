package journal

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// Index runs are made in the background, level by level, for the groups of
// segments on the active path that are complete. A run is derived from what the
// segments say of themselves, so it is not synced: what a power loss leaves of
// one fails its checksums, is dropped and made again.

// defaultRunStep is the difference of two levels: a run is made of at most
// 2^step of the level below, and a position is made of fewer than that of each
// level. A larger step makes fewer runs, a smaller one fewer layers.
const defaultRunStep = 2

// maxRunJobs bounds what is made before the path is looked at again.
const maxRunJobs = 32

// runJob is a run that is to be made.
type runJob struct {
	key   runKey
	parts []pathPart // what it is made of
}

// buildRuns makes the runs that are missing and puts them to use. What goes
// wrong with a run is logged and tried again by the next call, because nothing
// depends on it. Errors: ErrPoisoned, ErrClosed, that of ctx.
func (s *Store) buildRuns(ctx context.Context) error {
	s.buildMu.Lock()
	defer s.buildMu.Unlock()
	s.runs.removeLeftovers()
	for {
		if s.pressed.Load() || s.isShort() && s.runDuty() < 1 {
			return nil // no time to take more space, unless it is for want of memory
		}
		jobs, held, err := s.missingRuns()
		if err != nil {
			return err
		}
		for _, job := range jobs {
			if err = s.buildRun(ctx, job); err != nil {
				break
			}
		}
		s.releaseParts(held)
		damaged := s.healed(err)
		if err == nil {
			err = s.refreshLive()
		}
		switch {
		case damaged:
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrClosed):
			return nil // Close is waiting
		case err != nil:
			s.mu.RLock()
			unusable := s.usable()
			s.mu.RUnlock()
			s.complainOfRuns(err)
			return unusable
		case len(jobs) == 0:
			s.runTrouble = ""
			return nil
		}
	}
}

// complainOfRuns logs an error unless it was the last one logged.
func (s *Store) complainOfRuns(err error) {
	if text := err.Error(); text != s.runTrouble {
		s.runTrouble = text
		s.cfg.Log.Warn("index runs cannot be made now", "volume", s.volume, "error", err)
	}
}

// missingRuns lists runs to be made, lower levels first, and holds all of the
// path while they are.
func (s *Store) missingRuns() (jobs []runJob, held []pathPart, err error) {
	s.mu.RLock()
	err = s.usable()
	if err == nil {
		held, err = s.holdPathLocked(s.tipLocked())
	}
	newest := segmentID(0)
	for id := range s.segments {
		newest = max(newest, id)
	}
	s.mu.RUnlock()
	if err != nil {
		return nil, nil, err
	}
	step := s.cfg.runStep
	for level := step; level <= maxRunLevel && len(jobs) < maxRunJobs; level += step {
		groups := completeGroups(held, level, newest)
		if len(groups) == 0 {
			break // nor are there any of a higher level
		}
		for _, job := range groups {
			if job.mergesSeveral(level-step) && !s.runs.has(job.key) && len(jobs) < maxRunJobs {
				jobs = append(jobs, job)
			}
		}
	}
	return jobs, held, nil
}

// completeGroups divides a path by aligned ranges of ids and returns those that
// no further segment can come into: ids rise in the order of use. Where a
// segment of the range is not wholly on the path, there can be no run.
func completeGroups(parts []pathPart, level uint8, newest segmentID) (groups []runJob) {
	for i := 0; i < len(parts); {
		key := runKey{start: parts[i].id &^ (1<<level - 1), level: level}
		whole, j := true, i
		for ; j < len(parts) && parts[j].id < key.end(); j++ {
			whole = whole && parts[j].whole()
		}
		key.owner = parts[j-1].timeline
		if key.end() <= newest && whole {
			groups = append(groups, runJob{key, parts[i:j]})
		}
		i = j
	}
	return groups
}

// mergesSeveral reports whether the parts lie in several ranges of a lower
// level. If not, the run of the lower level is as good.
func (j *runJob) mergesSeveral(below uint8) bool {
	return j.parts[0].id>>below != j.parts[len(j.parts)-1].id>>below
}

// buildRun makes one run and makes it known.
func (s *Store) buildRun(ctx context.Context, job runJob) (err error) {
	for _, part := range job.parts {
		part.users.Add(1)
	}
	inputs, err := s.newStack(job.parts, job.key.level, nil)
	if err != nil {
		return fmt.Errorf("make index run %s: %w", job.key.name(), err)
	}
	defer s.releaseStack(inputs)
	if err := s.writeRun(ctx, job, inputs.cursor()); err != nil {
		return fmt.Errorf("make index run %s: %w", job.key.name(), mapFull(err))
	}
	s.runs.add(job.key)
	return nil
}

// writeRun writes a run under a name of its own and then gives it its real one.
func (s *Store) writeRun(ctx context.Context, job runJob, from cursor) (err error) {
	temp := s.cfg.file(job.key.name() + runTempSuffix[len(runSuffix):])
	file, err := s.cfg.FS.Create(temp)
	if err != nil {
		return err
	}
	w := newRunWriter(file, s.volume, job)
	err = w.copy(from, func(bytes int64) error {
		if s.closing.Load() {
			return ErrClosed
		}
		return w.pace(ctx, s, bytes)
	})
	if err == nil {
		err = w.finish()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = s.cfg.FS.Rename(temp, s.cfg.file(job.key.name()))
	}
	if err != nil {
		return errors.Join(err, s.cfg.FS.Remove(temp))
	}
	return nil
}

// runWriter encodes a run into a file.
type runWriter struct {
	file     vfs.File
	header   runHeader
	identity uint32
	list     []byte
	fences   []uint64
	block    table  // not encoded yet
	buf      []byte // encoded and not written yet
	off      int64  // where buf begins in the file
	pacer    *pacer
}

func newRunWriter(file vfs.File, volume VolumeID, job runJob) *runWriter {
	segments := make([]runSegment, len(job.parts))
	for i, part := range job.parts {
		segments[i] = runSegmentOf(part.segment, part.last)
	}
	w := &runWriter{
		file: file, list: encodeRunList(segments), off: blockBytes,
		block: make(table, 0, runExtentsPerBlock), buf: make([]byte, 0, runCursorBytes),
	}
	w.header = runHeader{volume: volume, key: job.key, segments: int64(len(segments)), listCRC: crc32.Checksum(w.list, castagnoli)}
	w.identity = w.header.identity()
	return w
}

// pace rests after so many bytes as destage does, so that requests come first.
func (w *runWriter) pace(ctx context.Context, s *Store, bytes int64) error {
	if w.pacer == nil {
		w.pacer = s.newPacer()
		w.pacer.hurry, w.pacer.duty = nil, s.runDuty // nobody waits for a run
	}
	return w.pacer.did(ctx, bytes)
}

// minRunDuty is the part of the time in which runs are made while the volume is
// in use. The work is little beside that of the writes which cause it.
const minRunDuty = 0.2

// runDuty is whole when what no run has yet takes much memory.
func (s *Store) runDuty() float64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if x := s.index; x.old != nil || x.stack.tableExtents() > s.cfg.youngExtents/2 {
		return 1
	}
	return minRunDuty
}

// copy writes all extents of a cursor; each is called with the number of bytes
// that were written.
func (w *runWriter) copy(from cursor, each func(bytes int64) error) error {
	for {
		e, ok, err := from.next()
		if err != nil {
			return err
		}
		if !ok {
			return w.endBlock(each)
		}
		if w.block = append(w.block, e); len(w.block) == cap(w.block) {
			if err := w.endBlock(each); err != nil {
				return err
			}
		}
	}
}

func (w *runWriter) endBlock(each func(bytes int64) error) error {
	if len(w.block) > 0 {
		w.buf = appendRunBlock(w.buf, w.identity, w.header.blocks, w.block)
		w.fences = append(w.fences, w.block[len(w.block)-1].end())
		w.header.extents += int64(len(w.block))
		w.header.blocks++
		w.block = w.block[:0]
	}
	if len(w.buf) < cap(w.buf) {
		return nil
	}
	bytes := int64(len(w.buf))
	if err := w.flush(); err != nil {
		return err
	}
	return each(bytes)
}

func (w *runWriter) flush() error {
	if _, err := w.file.WriteAt(w.buf, w.off); err != nil {
		return err
	}
	// So that the kernel does not have all of a large run to write at once,
	// with the flushes of records behind it.
	w.file.StartWriteback(w.off, int64(len(w.buf)))
	w.off += int64(len(w.buf))
	w.buf = w.buf[:0]
	return nil
}

// finish writes the tail and, last, the header.
func (w *runWriter) finish() error {
	tail := encodeRunTail(w.fences, w.list)
	w.header.tailBytes, w.header.tailCRC = int64(len(tail)), crc32.Checksum(tail, castagnoli)
	w.buf = append(w.buf, tail...)
	if err := w.flush(); err != nil {
		return err
	}
	_, err := w.file.WriteAt(w.header.encode(), 0)
	return err
}
