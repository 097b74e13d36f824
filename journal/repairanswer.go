package journal

import (
	"context"
	"errors"
)

// AnswerRepair tells another store of the volume what this one has of what is
// damaged there. Nothing is changed. What cannot be told is an answer that says why;
// errors are ErrRange for a question that nobody can have, and that of ctx.
func (s *Store) AnswerRepair(ctx context.Context, q RepairQuestion) (RepairAnswer, error) {
	s.repairs.mu.Lock()
	defer s.repairs.mu.Unlock()
	if err := errors.Join(q.validate(), ctx.Err()); err != nil {
		return RepairAnswer{}, err
	}
	if s.check() != nil {
		return RepairAnswer{Lacks: LackStore}, nil
	}
	var answer RepairAnswer
	var err error
	if q.Record != (Position{}) {
		answer, err = s.answerRecord(ctx, q.Record)
	} else {
		answer, err = s.answerSectors(q)
	}
	if err != nil {
		_ = s.noteDamage(err)
		return RepairAnswer{Lacks: LackDamaged}, ctx.Err()
	}
	return answer, nil
}

// errFound ends a walk.
var errFound = errors.New("found")

// answerRecord finds a record, whichever timeline it is on.
func (s *Store) answerRecord(ctx context.Context, at Position) (RepairAnswer, error) {
	s.mu.RLock()
	g := s.segmentOfLocked(at)
	if g == nil {
		defer s.mu.RUnlock()
		if s.tree.has(at) {
			return RepairAnswer{Lacks: LackHorizon}, nil
		}
		return RepairAnswer{Lacks: LackUnknown}, nil
	}
	g.users.Add(1)
	snap := g.snapshot()
	s.mu.RUnlock()
	defer s.releaseSegment(g)
	answer := RepairAnswer{Lacks: LackDamaged}
	if g.thinned > 0 {
		answer.Lacks = LackThinned
	}
	err := walkFrames(g, snap.end, func(f *frame) error {
		switch {
		case f.Position.Seq < at.Seq:
			return ctx.Err()
		case f.Position.Seq == at.Seq:
			answer = RepairAnswer{Data: f.AppendEncoded(nil, s.volume)}
		}
		return errFound
	}, func(err error) error {
		_ = s.noteDamage(err)
		return nil
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return answer, err
}

// answerSectors shows what the sectors were at the asker's base, or at the horizon
// where that is past it.
func (s *Store) answerSectors(q RepairQuestion) (RepairAnswer, error) {
	v, err := s.View(q.Base)
	if errors.Is(err, ErrHorizon) || errors.Is(err, ErrThinned) {
		v, err = s.View(s.Horizon())
	}
	switch {
	case errors.Is(err, ErrUnknownPosition):
		return RepairAnswer{Lacks: LackUnknown}, nil
	case errors.Is(err, ErrHorizon), errors.Is(err, ErrThinned):
		return RepairAnswer{Lacks: LackHorizon}, nil
	case err != nil:
		return RepairAnswer{}, err
	}
	answer := RepairAnswer{Data: make([]byte, q.Length), At: v.Position()}
	// What lies beyond the volume's end reads as zeroes.
	if n := min(q.Length, v.SizeBytes()-q.Offset); n > 0 {
		err = v.readOnce(answer.Data[:n], q.Offset)
	}
	return answer, errors.Join(err, v.Close())
}
