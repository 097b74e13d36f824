package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// realStore is a store of package journal over a simulated disk.
type realStore struct {
	SourceStore
	store   *journal.Store
	history *history
	cfg     journal.Config
	disk    *vfs.Mem
	fault   *vfs.Fault
	guard   func() error
	dead    error // it could not be opened again
}

// realMaker makes such stores.
type realMaker struct {
	history map[journal.VolumeID]*history
	rng     *rand.Rand
}

// randomBytes is a source of timeline ids that follows the seed.
type randomBytes struct{ rng *rand.Rand }

func (r randomBytes) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.rng.Uint32())
	}
	return len(p), nil
}

func (m realMaker) config() (journal.Config, *vfs.Mem, *vfs.Fault) {
	disk := vfs.NewMem()
	fault := vfs.NewFault(disk)
	return journal.Config{FS: fault, Dir: "store", Clock: fixedClock{time.Unix(1_800_000_000, 0)}, Random: randomBytes{m.rng},
		SegmentBytes: journal.MinSegmentBytes}, disk, fault
}

func (m realMaker) create(volume journal.VolumeID, _ journal.TimelineID) siteStore {
	cfg, disk, fault := m.config()
	if err := journal.Create(cfg, journal.Spec{Volume: volume, SizeBytes: modelBytes}); err != nil {
		panic(fmt.Sprintf("create store: %v", err))
	}
	s := &realStore{history: m.history[volume], cfg: cfg, disk: disk, fault: fault}
	s.open()
	s.learn(s.Tip().Timeline)
	return s
}

func (m realMaker) fill(spec ImageSpec) (storeFiller, error) {
	cfg, disk, fault := m.config()
	im, err := journal.NewImport(cfg, journal.Spec{Volume: spec.Volume, SizeBytes: spec.SizeBytes}, spec.At, spec.Timelines)
	if err != nil {
		return nil, err
	}
	return &realFiller{im, &realStore{history: m.history[spec.Volume], cfg: cfg, disk: disk, fault: fault}}, nil
}

type realFiller struct {
	*journal.Import
	store *realStore
}

func (f *realFiller) finish() (siteStore, error) {
	if err := f.Commit(); err != nil {
		return nil, err
	}
	f.store.open()
	return f.store, f.store.dead
}

func (s *realStore) open() {
	store, err := journal.Open(s.cfg)
	if err != nil {
		panic(fmt.Sprintf("open store: %v", err))
	}
	s.store, s.SourceStore = store, OpenSource(store)
}

// learn tells the oracle of a timeline that the store has made.
func (s *realStore) learn(id journal.TimelineID) {
	for _, t := range s.store.Timelines() {
		if t.ID == id {
			s.history.mu.Lock()
			_, known := s.history.lines[id]
			s.history.mu.Unlock()
			if !known {
				s.history.fork(t)
			}
		}
	}
}

func (s *realStore) Tip() journal.Position           { return s.store.Tip() }
func (s *realStore) Flush(ctx context.Context) error { return s.store.Flush(ctx) }
func (s *realStore) Adopt(t journal.Timeline) error  { return s.store.Adopt(t) }
func (s *realStore) watch(guard func() error)        { s.guard = guard }
func (s *realStore) failure() error                  { return s.store.Err() }

func (s *realStore) Reclaim(ctx context.Context) (int64, error) { return s.store.Reclaim(ctx) }
func (s *realStore) Lacks() error                               { return s.store.Lacks() }

func (s *realStore) BeginLeap(interval time.Duration) error      { return s.store.BeginLeap(interval) }
func (s *realStore) AppendLeap(r []journal.Record) error         { return s.store.AppendLeap(r) }
func (s *realStore) Leap() (journal.Position, journal.Seq, bool) { return s.store.Leap() }
func (s *realStore) EndLeap(end journal.Position, line *journal.Timeline) error {
	if s.guard != nil {
		if err := s.guard(); err != nil {
			return err
		}
	}
	return s.store.EndLeap(end, line)
}

func (s *realStore) AppendRecords(records []journal.Record) error {
	if s.guard != nil {
		if err := s.guard(); err != nil {
			return err
		}
	}
	return s.store.AppendRecords(records)
}

func (s *realStore) write(kind journal.Kind, off, length int64) error {
	r := journal.Record{Kind: kind, Offset: off, Length: length}
	var err error
	switch kind {
	case journal.KindWrite:
		r.Payload = make([]byte, length)
		fill(r.Payload, s.history.nextStamp())
		r.Position, err = s.store.Write(r.Payload, off)
	case journal.KindDiscard:
		r.Position, err = s.store.Discard(off, length)
	case journal.KindZero:
		r.Position, err = s.store.Zero(off, length)
	case journal.KindCheckpoint:
		r.Position, err = s.store.Checkpoint(journal.Checkpoint{Number: journal.CheckpointNumber(off), Time: time.Unix(0, length),
			CheckpointInfo: journal.CheckpointInfo{Group: modelGroup, Members: []journal.VolumeID{volumeOne, volumeTwo}}})
	}
	if err != nil {
		return err
	}
	s.learn(r.Position.Timeline)
	s.history.record(r, s.Volume())
	return nil
}

func (s *realStore) fork(_ journal.TimelineID, at journal.Position, reason string) error {
	t, err := s.store.Fork(at, reason)
	if err == nil {
		s.history.fork(t)
	}
	return err
}

func (s *realStore) holds(at journal.Position) bool {
	v, err := s.store.View(at)
	if errors.Is(err, journal.ErrPoisoned) || at.Seq <= s.store.Horizon().Seq {
		return true // cannot be asked before it is opened again, or any more
	}
	if err != nil {
		return false
	}
	return v.Close() == nil
}

func (s *realStore) checkpoints() map[[2]int64]journal.Position {
	found := make(map[[2]int64]journal.Position)
	for _, c := range s.store.Checkpoints() {
		found[[2]int64{int64(c.Number), c.Time.UnixNano()}] = c.Position
	}
	return found
}

func (s *realStore) verify() error {
	if s.store.Err() != nil {
		return nil // cannot be read before it is opened again
	}
	tip := s.store.Tip()
	s.history.mu.Lock()
	want, ok := s.history.at(tip)
	s.history.mu.Unlock()
	if !ok && len(s.history.lines) > 0 && s.history.lines[tip.Timeline] == nil {
		// A timeline that recovery began and nothing was written to.
		s.learn(tip.Timeline)
		return s.verify()
	}
	if !ok {
		return fmt.Errorf("volume %s stands at %s, which no primary wrote", s.Volume(), tip)
	}
	data := make([]byte, modelBytes)
	if err := s.store.ReadAt(data, 0); err != nil {
		return fmt.Errorf("read volume: %w", err)
	}
	if err := sameImage(data, want.image); err != nil {
		return fmt.Errorf("volume %s at %s: %w", s.Volume(), tip, err)
	}
	return nil
}

// trim lets maintenance destage what it may.
func (s *realStore) trim(journal.Position) {
	s.store.SetRetention(journal.Retention{JournalBytes: 1})
	_ = s.store.Maintain(context.Background()) // a poisoned store stays as it is
	s.store.SetRetention(journal.Retention{})
}

func (s *realStore) crash(rng *rand.Rand, _ journal.TimelineID) siteStore {
	found := &realStore{history: s.history, cfg: s.cfg, disk: s.disk.Crash(rng), guard: s.guard}
	_ = s.store.Close() // of a process that is gone; its disk is too
	found.fault = vfs.NewFault(found.disk)
	found.cfg.FS = found.fault
	found.open()
	return found
}

func (s *realStore) breakNext(flush bool) {
	op := vfs.OpWrite
	if flush {
		op = vfs.OpSync
	}
	s.fault.FailAfter(1, errDisk, op)
}

// heal is a wasted operation of each kind, which takes the fault.
func (s *realStore) heal() {
	for range 2 {
		f, err := s.fault.Create("spent")
		if err != nil {
			continue
		}
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], 1)
		_, _ = f.WriteAt(b[:], 0)
		_ = f.Sync()
		_ = f.Close()
		_ = s.fault.Remove("spent")
	}
}
