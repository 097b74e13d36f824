package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/lockstep-csi/lockstep/journal"
)

// Size of a model volume: small, so that every step can check all of it.
const (
	modelSectors = 8
	modelBytes   = modelSectors * journal.SectorBytes
)

// modelStore is a store in memory with the contract that this package needs
// of package journal: it loses what was not flushed when it crashes, and goes
// on on a timeline of its own afterwards.
type modelStore struct {
	history *history
	volume  journal.VolumeID

	mu      sync.Mutex
	changed chan struct{} // closed and replaced with every change
	base    journal.Position
	baseSum uint64
	baseImg []byte
	lines   map[journal.TimelineID]*modelLine
	order   []journal.TimelineID
	active  journal.TimelineID
	durable journal.Seq
	data    []byte // at the tip
	sum     uint64 // at the tip
	broken  error
	// failAppend and failFlush make the next call of that kind fail and
	// poison the store.
	failAppend, failFlush bool
	// guard, when set, is asked before anything is appended by a peer.
	guard func() error
}

type modelLine struct {
	journal.Timeline
	first   journal.Seq // of records
	records []journal.Record
}

func (l *modelLine) last() journal.Seq { return l.first + journal.Seq(len(l.records)) - 1 }

func newModelStore(h *history, volume journal.VolumeID, root journal.TimelineID) *modelStore {
	t := journal.Timeline{ID: root, Reason: "created"}
	h.fork(t)
	return filledModelStore(h, volume, journal.Position{Timeline: root}, []journal.Timeline{t}, make([]byte, modelBytes))
}

// filledModelStore is a store whose base is an image at a position.
func filledModelStore(h *history, volume journal.VolumeID, at journal.Position, timelines []journal.Timeline, img []byte) *modelStore {
	s := &modelStore{history: h, volume: volume, changed: make(chan struct{}), base: at, baseImg: img,
		lines: make(map[journal.TimelineID]*modelLine), active: at.Timeline, durable: at.Seq}
	for _, t := range timelines {
		l := &modelLine{Timeline: t, first: t.Parent.Seq + 1}
		if t.ID == at.Timeline {
			l.first = at.Seq + 1
		}
		s.lines[t.ID] = l
		s.order = append(s.order, t.ID)
	}
	h.mu.Lock()
	step, _ := h.at(at)
	h.mu.Unlock()
	s.baseSum = step.sum
	s.replay()
	return s
}

// replay computes data and sum at the tip.
func (s *modelStore) replay() {
	s.data, s.sum = s.imageAt(s.tip())
}

func (s *modelStore) imageAt(pos journal.Position) ([]byte, uint64) {
	data, sum := append([]byte(nil), s.baseImg...), s.baseSum
	path, _ := s.pathTo(pos)
	for _, run := range path {
		l := s.lines[run.Timeline]
		for _, r := range l.records[run.First-l.first : run.Last+1-l.first] {
			applyRecord(data, r)
			sum = chain(s.history.seed, sum, r, s.volume)
		}
	}
	return data, sum
}

func applyRecord(data []byte, r journal.Record) {
	switch r.Kind {
	case journal.KindWrite:
		copy(data[r.Offset:], r.Payload)
	case journal.KindDiscard, journal.KindZero:
		clear(data[r.Offset : r.Offset+r.Length])
	}
}

func (s *modelStore) tip() journal.Position {
	return journal.Position{Timeline: s.active, Seq: s.lines[s.active].last()}
}

// pathTo returns the runs from the base to a known position.
func (s *modelStore) pathTo(pos journal.Position) (journal.Path, error) {
	l := s.lines[pos.Timeline]
	if l == nil || pos.Seq > l.last() {
		return nil, journal.ErrUnknownPosition
	}
	var path journal.Path
	for {
		if pos.Timeline == s.base.Timeline {
			if pos.Seq < s.base.Seq {
				return nil, journal.ErrHorizon
			}
			path = append(journal.Path{{Timeline: pos.Timeline, First: s.base.Seq + 1, Last: pos.Seq}}, path...)
			return path, nil
		}
		l := s.lines[pos.Timeline]
		if l == nil {
			return nil, journal.ErrHorizon
		}
		path = append(journal.Path{{Timeline: pos.Timeline, First: l.Parent.Seq + 1, Last: pos.Seq}}, path...)
		pos = l.Parent
	}
}

func (s *modelStore) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *modelStore) Volume() journal.VolumeID { return s.volume }
func (s *modelStore) SizeBytes() int64         { return modelBytes }

// ImagePosition is the newest durable one: the model has no checkpoints.
func (s *modelStore) ImagePosition() journal.Position { return s.Durable() }

func (s *modelStore) Tip() journal.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tip()
}

func (s *modelStore) Durable() journal.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return journal.Position{Timeline: s.active, Seq: s.durable}
}

func (s *modelStore) Path() journal.Path {
	s.mu.Lock()
	defer s.mu.Unlock()
	path, err := s.pathTo(s.tip())
	if err != nil {
		panic(fmt.Sprintf("model's tip %s: %v", s.tip(), err))
	}
	return path
}

func (s *modelStore) Timelines() []journal.Timeline {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []journal.Timeline
	for _, id := range s.order {
		all = append(all, s.lines[id].Timeline)
	}
	return all
}

// holds reports whether the store can open a position, on its path or not.
func (s *modelStore) holds(pos journal.Position) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.pathTo(pos)
	return err == nil
}

// write appends a local change; kind KindCheckpoint takes number and time.
func (s *modelStore) write(kind journal.Kind, off, length int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	r := journal.Record{Kind: kind, Position: s.tip(), Offset: off, Length: length}
	r.Position.Seq++
	if kind == journal.KindWrite {
		r.Payload = make([]byte, length)
		fill(r.Payload, s.history.nextStamp())
	}
	r.PayloadCRC = journal.PayloadChecksum(r.Payload)
	s.history.record(r, s.volume)
	s.append(r)
	return nil
}

func (s *modelStore) append(r journal.Record) {
	l := s.lines[s.active]
	l.records = append(l.records, r)
	applyRecord(s.data, r)
	s.sum = chain(s.history.seed, s.sum, r, s.volume)
}

func (s *modelStore) breakNext(flush bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failFlush, s.failAppend = flush, !flush
}

func (s *modelStore) heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failFlush, s.failAppend = false, false
}

func (s *modelStore) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

func (s *modelStore) watch(guard func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.guard = guard
}

var errDisk = errors.New("input/output error")

func (s *modelStore) poison() error {
	s.broken = fmt.Errorf("%w: %w", journal.ErrPoisoned, errDisk)
	s.notify()
	return s.broken
}

func (s *modelStore) Flush(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flush()
}

func (s *modelStore) flush() error {
	if s.broken != nil {
		return s.broken
	}
	if s.failFlush {
		s.failFlush = false
		return s.poison()
	}
	s.durable = s.tip().Seq
	s.notify()
	return nil
}

func (s *modelStore) fork(id journal.TimelineID, at journal.Position, reason string) error {
	t := journal.Timeline{ID: id, Parent: at, Reason: reason}
	if !s.holds(at) {
		return journal.ErrUnknownPosition
	}
	s.history.fork(t)
	return s.Adopt(t)
}

func (s *modelStore) Adopt(t journal.Timeline) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	at := t.Parent
	if l := s.lines[t.ID]; l != nil {
		at = journal.Position{Timeline: t.ID, Seq: l.last()}
	}
	if _, err := s.pathTo(at); err != nil {
		return fmt.Errorf("adopt %s: %w", t.ID, err)
	}
	if err := s.flush(); err != nil {
		return err
	}
	if s.lines[t.ID] == nil {
		s.lines[t.ID] = &modelLine{Timeline: t, first: t.Parent.Seq + 1}
		s.order = append(s.order, t.ID)
	}
	s.active = t.ID
	s.durable = s.tip().Seq
	s.replay()
	s.notify()
	return nil
}

func (s *modelStore) Reclaim(context.Context) (int64, error) { return 0, nil }
func (s *modelStore) Lacks() error                           { return nil }

func (s *modelStore) AppendRecords(records []journal.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guard != nil {
		if err := s.guard(); err != nil {
			return err
		}
	}
	if s.broken != nil {
		return s.broken
	}
	for i, r := range records {
		tip := s.tip()
		if r.Position.Timeline != tip.Timeline || r.Position.Seq != tip.Seq+1 {
			return journal.ErrGap
		}
		if s.failAppend && i == len(records)/2 {
			s.failAppend = false
			return s.poison()
		}
		r.Payload = bytes.Clone(r.Payload)
		s.append(r)
	}
	return nil
}

// crash returns the store as it is found after a power loss: of what was not
// durable a random prefix is left, and a new timeline begins there.
func (s *modelStore) crash(rng *rand.Rand, id journal.TimelineID) siteStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lines[s.active]
	kept := s.durable + journal.Seq(rng.IntN(int(l.last()-s.durable)+1))
	l.records = l.records[:kept+1-l.first]
	s.broken = journal.ErrClosed
	s.notify()
	found := &modelStore{history: s.history, volume: s.volume, changed: make(chan struct{}), base: s.base, baseSum: s.baseSum,
		baseImg: s.baseImg, lines: s.lines, order: s.order, active: s.active, guard: s.guard}
	at := found.tip()
	found.history.fork(journal.Timeline{ID: id, Parent: at})
	found.lines[id] = &modelLine{Timeline: journal.Timeline{ID: id, Parent: at, Reason: "recovered"}, first: at.Seq + 1}
	found.order = append(found.order, id)
	found.active, found.durable = id, at.Seq
	found.replay()
	return found
}

// trim moves the horizon to a durable position of the active path.
func (s *modelStore) trim(to journal.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path, err := s.pathTo(s.tip())
	if err != nil || !path.Contains(to) || to.Seq > s.durable {
		return
	}
	img, sum := s.imageAt(to)
	if _, err := s.pathTo(to); err != nil {
		return
	}
	// What does not descend from the new base can no longer be opened.
	for id, l := range s.lines {
		end := journal.Position{Timeline: id, Seq: l.last()}
		p, err := s.pathTo(end)
		if id != to.Timeline && (err != nil || !p.Contains(to)) {
			l.records = nil
			l.first = l.Parent.Seq + 1
		}
	}
	l := s.lines[to.Timeline]
	l.records = l.records[to.Seq+1-l.first:]
	l.first = to.Seq + 1
	s.base, s.baseImg, s.baseSum = to, img, sum
	s.notify()
}

// checkpoints returns the durable ones on the active path, by number and time.
func (s *modelStore) checkpoints() map[[2]int64]journal.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := make(map[[2]int64]journal.Position)
	path, _ := s.pathTo(journal.Position{Timeline: s.active, Seq: s.durable})
	for _, run := range path {
		l := s.lines[run.Timeline]
		for _, r := range l.records[run.First-l.first : run.Last+1-l.first] {
			if r.Kind == journal.KindCheckpoint {
				found[[2]int64{r.Offset, r.Length}] = r.Position
			}
		}
	}
	return found
}

// verify compares the store's content with the oracle's at its tip.
func (s *modelStore) verify() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	tip := s.tip()
	s.history.mu.Lock()
	want, ok := s.history.at(tip)
	s.history.mu.Unlock()
	if !ok {
		return fmt.Errorf("volume %s stands at %s, which no primary wrote", s.volume, tip)
	}
	if want.sum != s.sum {
		return fmt.Errorf("volume %s holds other records up to %s than were written", s.volume, tip)
	}
	return sameImage(s.data, want.image)
}

func (v *modelView) SizeBytes() int64 { return int64(len(v.data)) }
func (v *modelView) Close() error     { return nil }
