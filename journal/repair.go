package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Damage is repaired with what another store of the volume has whole: this store
// says what it lacks (NextRepair), somebody asks the other one (AnswerRepair), and
// brings back what it says (TakeRepair). What proves an answer is in this store; see
// docs/decisions/0017.
//
// A repair writes in place, only bytes that are damaged, and in one piece. A crash
// leaves them whole, or damaged as before in the eyes of their checksums.

const (
	// repairRetry is how long what nobody could help with is left alone, unless a
	// peer comes anew.
	repairRetry = 10 * time.Minute
	// repairWait bounds the time for which a read waits for a repair.
	repairWait = 2 * time.Second
)

// RepairQuestion is what a store has damaged and another store of the volume may
// have whole: a record, or sectors of the base.
type RepairQuestion struct {
	Record Position // zero: sectors are asked for
	// Base is the position of the asking store's base, of which it wants Length
	// bytes at Offset: whole sectors, at most MaxPayloadBytes.
	Base           Position
	Offset, Length int64
}

func (q RepairQuestion) String() string {
	if q.Record != (Position{}) {
		return "record " + q.Record.String()
	}
	return fmt.Sprintf("%d bytes at %d of the base at %s", q.Length, q.Offset, q.Base)
}

func (q *RepairQuestion) validate() error {
	if q.Record != (Position{}) {
		return nil
	}
	if q.Offset < 0 || q.Length <= 0 || q.Length > MaxPayloadBytes || q.Offset%SectorBytes != 0 || q.Length%SectorBytes != 0 || q.Offset > maxVolumeBytes-q.Length {
		return fmt.Errorf("repair %s: %w", q, ErrRange)
	}
	return nil
}

// RepairLack is why a store cannot answer.
type RepairLack uint8

// What an answer may lack. Values are part of the protocol between sites.
const (
	LackNothing RepairLack = iota
	LackStore              // there is no store, or none that can tell
	LackUnknown            // it never came there
	LackHorizon            // it is no longer in the journal
	LackThinned            // it was thinned out
	LackDamaged            // it is damaged there, too
)

var lackTexts = [...]string{"nothing", "the peer has no store of the volume", "the peer never had it", "it has left the peer's journal",
	"it was thinned out of the peer's history", "it is damaged at the peer, too"}

func (l RepairLack) String() string {
	if int(l) < len(lackTexts) {
		return lackTexts[l]
	}
	return fmt.Sprintf("lack-%d", uint8(l))
}

// RepairAnswer is what another store has of what was asked.
type RepairAnswer struct {
	// Data is the portable form of the record, or the bytes of the sectors; nil if
	// something is lacking.
	Data  []byte
	At    Position // that the sectors are of
	Lacks RepairLack
}

// RepairStats count since Open.
type RepairStats struct {
	Repaired     uint64 // records, runs of sectors, footers and headers
	Refused      uint64 // answers that the store has disproved
	Unrepairable int    // places of Damaged for which there was no answer, or no way
}

// repairs is a Store's part in repairs.
type repairs struct {
	// mu is held over each step: looking for a question, answering one, taking an
	// answer. Close waits for it.
	mu    sync.Mutex
	asked map[damagePlace]bool           // in the present round; guarded by mu
	about map[RepairQuestion]damageRange // of the same; guarded by mu

	wanted    chan struct{} // capacity 1: something may be asked
	answering atomic.Bool   // a peer answered the last call

	turnMu sync.Mutex
	turn   chan struct{}   // closed and replaced when a step changed something; guarded by turnMu
	recent []RepairedPlace // guarded by turnMu

	repaired, refused atomic.Uint64
}

// turned is a channel that is closed when something has changed since the call.
func (r *repairs) turned() <-chan struct{} {
	r.turnMu.Lock()
	defer r.turnMu.Unlock()
	return r.turn
}

func (r *repairs) announce() {
	r.turnMu.Lock()
	defer r.turnMu.Unlock()
	close(r.turn)
	r.turn = make(chan struct{})
}

// RepairWanted has a token when damage was found that nobody was asked about.
func (s *Store) RepairWanted() <-chan struct{} { return s.repairs.wanted }

// PeerAnswers tells the store whether there is somebody who takes its questions and
// brings answers: then reads of damage wait a moment. When one comes, what was tried
// in vain is tried again.
func (s *Store) PeerAnswers(answers bool) {
	if s.repairs.answering.Swap(answers) == answers {
		return
	}
	if answers {
		s.damage.retry()
		wake(s.repairs.wanted)
	}
	s.repairs.announce()
}

// RepairStats returns the figures of repairs.
func (s *Store) RepairStats() RepairStats {
	return RepairStats{Repaired: s.repairs.repaired.Load(), Refused: s.repairs.refused.Load(), Unrepairable: s.damage.countTried()}
}

// NextRepair returns what is to be asked next; ok is false when there is nothing
// now. What can be mended without asking is mended on the way. It asks about each
// place once in a round, which ends when ok is false, and about what stays damaged
// again ten minutes later. ErrPoisoned, ErrClosed, that of ctx.
func (s *Store) NextRepair(ctx context.Context) (q RepairQuestion, ok bool, err error) {
	s.repairs.mu.Lock()
	defer s.repairs.mu.Unlock()
	if err := s.check(); err != nil {
		return q, false, err
	}
	now := s.cfg.Clock.Now()
	places := s.damage.due(now)
	for len(places) > 0 {
		n := 1
		for n < len(places) && places[n].file == places[0].file {
			n++
		}
		q, ok, err = s.nextRepairIn(ctx, places[:n])
		if ok || err != nil {
			return q, ok, err
		}
		s.damage.tried(places[:n], now)
		places = places[n:]
	}
	clear(s.repairs.asked)
	clear(s.repairs.about)
	s.repairs.announce()
	return q, false, nil
}

// nextRepairIn looks for a question in one file. An error ends all repairs; trouble
// with this file does not.
func (s *Store) nextRepairIn(ctx context.Context, places []damagePlace) (q RepairQuestion, ok bool, err error) {
	if places[0].file == baseFile {
		q, ok, err = s.nextBaseRepair(ctx, places)
	} else if g := s.holdNamed(places[0].file); g != nil {
		q, ok, err = s.nextSegmentRepair(ctx, g)
		s.forgetReplaced(g)
		s.releaseSegment(g)
	}
	if err != nil && ctx.Err() == nil && s.check() == nil {
		s.cfg.Log.Warn("damage cannot be repaired now", "volume", s.volume, "file", places[0].file, "error", err)
		return RepairQuestion{}, false, nil
	}
	return q, ok, err
}

// holdNamed holds the segment with a file's name; nil if there is none.
func (s *Store) holdNamed(name string) *segment {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, g := range s.segments {
		if g.name == name {
			g.users.Add(1)
			return g
		}
	}
	return nil
}

// TakeRepair repairs with an answer what a question was about, durably on return.
// Nothing is written that this store does not prove: ErrCorrupt for an answer that
// it disproves. An answer that lacks something is no error, and neither is one that
// comes too late. Other errors are of I/O, ErrPoisoned, ErrClosed; the damage then
// is as before, or less.
func (s *Store) TakeRepair(ctx context.Context, q RepairQuestion, a RepairAnswer) error {
	s.repairs.mu.Lock()
	defer s.repairs.mu.Unlock()
	if err := errors.Join(s.check(), q.validate(), ctx.Err()); err != nil {
		return err
	}
	defer s.repairs.announce()
	if a.Lacks != LackNothing {
		s.cfg.Log.Warn("damage cannot be repaired from the peer", "volume", s.volume, "asked", q, "reason", a.Lacks)
		s.damage.because(s.repairs.about[q], a.Lacks.String())
		return nil
	}
	var err error
	if q.Record != (Position{}) {
		err = s.takeRecord(q, a)
	} else {
		err = s.takeSectors(q, a)
	}
	if errors.Is(err, ErrCorrupt) {
		s.repairs.refused.Add(1)
		s.damage.because(s.repairs.about[q], "what the peer has does not fit: "+err.Error())
	}
	if err != nil {
		return fmt.Errorf("repair %s: %w", q, err)
	}
	return nil
}

// noteRepaired counts a repair, logs it, and lets go on what damage has stopped.
func (s *Store) noteRepaired(file string, off int64, what string) {
	s.repairs.repaired.Add(1)
	s.repairs.remember(RepairedPlace{file, off, what, s.cfg.Clock.Now()})
	s.mu.Lock()
	clear(s.spared)
	s.mu.Unlock()
	s.wakeRun()
	s.cfg.Log.Info("damage repaired", "volume", s.volume, "file", file, "offset", off, "what", what)
}

// awaitRepair notes damage that a read has met, and waits until it is repaired;
// false if that is not to be expected. No lock may be held.
func (s *Store) awaitRepair(err error) bool {
	var c *CorruptError
	_ = s.noteDamage(err)
	if !errors.As(err, &c) || !s.repairs.answering.Load() {
		return false
	}
	at := damagePlace{c.File, c.Offset}
	timer := s.cfg.Clock.NewTimer(repairWait)
	defer timer.Stop()
	for {
		turned := s.repairs.turned()
		known, tried := s.damage.state(at)
		switch {
		case !known:
			return true
		case tried || !s.repairs.answering.Load():
			return false
		}
		select {
		case <-turned:
		case <-timer.C():
			return false
		}
	}
}

// due returns the places that are to be repaired, by file and offset.
func (l *damageLog) due(now time.Time) (places []damagePlace) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for at, known := range l.places {
		if known.tried.IsZero() || now.Sub(known.tried) >= repairRetry || known.tried.After(now) {
			places = append(places, at)
		}
	}
	slices.SortFunc(places, func(a, b damagePlace) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.off, b.off))
	})
	return places
}

// tried notes that nobody could help with the places that are still there.
func (l *damageLog) tried(places []damagePlace, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, at := range places {
		if known := l.places[at]; known != nil {
			known.tried = now
			if known.reason == "" {
				known.reason = "there is nothing that another copy could be asked for, or that proves its answer"
			}
		}
	}
}

// retry forgets what was tried.
func (l *damageLog) retry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, known := range l.places {
		known.tried, known.reason = time.Time{}, ""
	}
}

func (l *damageLog) countTried() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, known := range l.places {
		if !known.tried.IsZero() {
			n++
		}
	}
	return n
}

// state tells whether a place is damaged, and was tried to be repaired in vain.
func (l *damageLog) state(at damagePlace) (known, tried bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.places[at]
	return k != nil, k != nil && !k.tried.IsZero()
}
