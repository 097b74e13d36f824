package journal

import (
	"context"
	"errors"
	"math"
	"time"
)

// scrubNowDuty is the part of the time in which a scrub that somebody waits for works
// beside requests.
const scrubNowDuty = 0.5

// ScrubNow reads all that a pass of the scrub reads, from the beginning, and returns
// when it is through: what is damaged then is in DamagedPlaces. It gives way to
// requests, but less than the scrub that nobody waits for. told, if not nil, is called
// now and then with the bytes that were read, and an estimate of all; it must not wait.
// When ctx ends the pass goes on in the scrub's own time. ErrPoisoned, ErrClosed, ErrFull
// where what the pass needs to note finds no room.
func (s *Store) ScrubNow(ctx context.Context, told func(read, total int64)) error {
	s.scrub.mu.Lock()
	defer s.scrub.mu.Unlock()
	defer s.publishScrub()
	if err := errors.Join(s.check(), s.sumBase(ctx)); err != nil {
		return err
	}
	st := &s.scrub.state
	*st = scrubState{Pass: st.Pass + 1, Began: s.cfg.Clock.Now().UTC(), LastFull: st.LastFull}
	s.scrub.pass.Store(st.Pass)
	pace := s.newPacer()
	pace.duty = func() float64 { return scrubNowDuty }
	turn := scrubTurn{s: s, left: math.MaxInt64, pace: pace, told: s.tellsOfScrub(told)}
	if err := turn.run(ctx); err != nil {
		return err
	}
	s.endScrub(s.cfg.Clock.Now())
	return errors.Join(s.saveScrub(), s.keepDamage())
}

// ScrubbedBytes is what the present pass of the scrub, or the last one, has read so far.
func (s *Store) ScrubbedBytes() int64 {
	s.scrub.mu.Lock()
	defer s.scrub.mu.Unlock()
	return s.scrub.state.Bytes
}

// tellsOfScrub calls told each few MiB.
func (s *Store) tellsOfScrub(told func(read, total int64)) func() {
	if told == nil {
		return nil
	}
	var last int64
	return func() {
		if read := s.scrub.state.Bytes; read-last >= minScrubBytes {
			last = read
			told(read, max(read, s.scrubBytes()))
		}
	}
}

// RepairNow has all that is known to be damaged tried to be repaired at once, also what
// was tried in vain a moment ago, and returns when each place is whole or has a reason
// why it is not. With peer somebody brings questions to another store of the volume (see
// NextRepair) and ctx bounds the wait for that; without, only what this store can mend by
// itself is.
func (s *Store) RepairNow(ctx context.Context, peer bool) error {
	s.damage.retry()
	wake(s.repairs.wanted)
	for {
		turned := s.repairs.turned()
		if s.damage.count() == s.damage.countTried() {
			return s.check()
		}
		if !peer {
			if err := s.mendAlone(ctx); err != nil {
				return err
			}
			continue
		}
		select {
		case <-turned:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// mendAlone is a round of questions without anybody who answers.
func (s *Store) mendAlone(ctx context.Context) error {
	for {
		q, ok, err := s.NextRepair(ctx)
		if err != nil || !ok {
			return err
		}
		s.repairs.mu.Lock()
		s.damage.because(s.repairs.about[q], "the volume is not replicated: there is no other copy")
		s.repairs.mu.Unlock()
	}
}

// RepairedPlace is a place that was repaired.
type RepairedPlace struct {
	File   string
	Offset int64
	What   string // that was damaged, for people
	Time   time.Time
}

// maxRepairedPlaces bounds what is remembered of repairs.
const maxRepairedPlaces = 1024

// Repaired returns what was repaired since a moment, at most the newest
// maxRepairedPlaces since Open, oldest first.
func (s *Store) Repaired(since time.Time) (out []RepairedPlace) {
	s.repairs.turnMu.Lock()
	defer s.repairs.turnMu.Unlock()
	for _, p := range s.repairs.recent {
		if !p.Time.Before(since) {
			out = append(out, p)
		}
	}
	return out
}

// remember keeps what was repaired for Repaired.
func (r *repairs) remember(p RepairedPlace) {
	r.turnMu.Lock()
	defer r.turnMu.Unlock()
	if len(r.recent) == maxRepairedPlaces {
		r.recent = append(r.recent[:0], r.recent[1:]...)
	}
	r.recent = append(r.recent, p)
}

// damageRange is the part of a file that a question is about.
type damageRange struct {
	file     string
	off, end int64
}

// because notes why what is damaged in a range is not repaired.
func (l *damageLog) because(in damageRange, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for at, known := range l.places {
		if at.file == in.file && at.off >= in.off && at.off < in.end {
			known.reason = reason
		}
	}
}
