package replication

import (
	"context"
	"errors"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
)

func (s *modelStore) Records(after journal.Position) (RecordReader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &modelReader{store: s, after: after}
	if _, _, err := r.find(); err != nil {
		return nil, err
	}
	return r, nil
}

type modelReader struct {
	store *modelStore
	after journal.Position
}

// find returns the next durable record; ok is false when there is none yet.
func (r *modelReader) find() (journal.Record, bool, error) {
	s := r.store
	if s.broken != nil {
		return journal.Record{}, false, s.broken
	}
	path, err := s.pathTo(s.tip())
	if err != nil {
		return journal.Record{}, false, err
	}
	if !path.Contains(r.after) {
		if r.after.Seq < s.base.Seq {
			return journal.Record{}, false, journal.ErrHorizon
		}
		return journal.Record{}, false, journal.ErrDiverged
	}
	next := r.after.Seq + 1
	for _, run := range path {
		if next >= run.First && next <= run.Last && next <= s.durable {
			l := s.lines[run.Timeline]
			return l.records[next-l.first], true, nil
		}
	}
	return journal.Record{}, false, nil
}

func (r *modelReader) Next(ctx context.Context) (journal.Record, error) {
	for {
		r.store.mu.Lock()
		rec, ok, err := r.find()
		changed := r.store.changed
		r.store.mu.Unlock()
		if err != nil || ok {
			if ok {
				r.after = rec.Position
			}
			return rec, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return journal.Record{}, ctx.Err()
		}
	}
}

func (r *modelReader) Close() {}

func (s *modelStore) View(at journal.Position) (View, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.pathTo(at); err != nil {
		return nil, err
	}
	data, _ := s.imageAt(at)
	return &modelView{data}, nil
}

type modelView struct{ data []byte }

func (v *modelView) ReadAt(p []byte, off int64) error {
	copy(p, v.data[off:])
	return nil
}

// NextData reports single sectors, so that an image has several chunks.
func (v *modelView) NextData(off int64) (start, length int64, err error) {
	for ; off < int64(len(v.data)); off += journal.SectorBytes {
		if !allZero(v.data[off : off+journal.SectorBytes]) {
			return off, journal.SectorBytes, nil
		}
	}
	return 0, 0, nil
}

// A model store does not thin, and so there is no leap over its history.
func (s *modelStore) Survivors(journal.Position, journal.Seq) (SurvivorReader, error) {
	return nil, journal.ErrHorizon
}

func (s *modelStore) BeginLeap(time.Duration) error                        { return errNoLeap }
func (s *modelStore) Leap() (from journal.Position, _ journal.Seq, _ bool) { return from, 0, false }
func (s *modelStore) AppendLeap([]journal.Record) error                    { return errNoLeap }
func (s *modelStore) EndLeap(journal.Position, *journal.Timeline) error    { return errNoLeap }

var errNoLeap = errors.New("model stores take no leaps")
