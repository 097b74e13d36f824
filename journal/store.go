package journal

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// Store is one volume's base image and journal, open for reading and for
// appending. Its methods may be called concurrently. It owns no goroutine:
// call Run, or Maintain from time to time.
//
// Locks, in the order in which they nest: repairs.mu, scrub.mu or thinMu, maintainMu, appendMu, buildMu,
// baseMu, refreshMu, sealMu, dropMu, spareMu, stateMu, flushMu, baseSyncMu, sumsSyncMu
// and segment.syncMu, mu, holdMu and those of runSet, the caches and damageLog.
type Store struct {
	cfg    Config
	volume VolumeID
	lock   io.Closer
	cat    catalog
	base   vfs.File
	size   atomic.Int64 // bytes; equals state.SizeBytes
	sums   baseSums
	summed atomic.Int64 // bytes; equals state.Summed

	// baseMu is held for reading by whoever writes to a part of the base and to its
	// checksums, over both: destage does, in several places at once. It is held for
	// writing by whoever must not see the one without the other, anywhere.
	baseMu     sync.RWMutex
	baseSyncMu sync.Mutex // see syncFile
	sumsSyncMu sync.Mutex // see syncFile

	frames *agedCache[frameList] // of sealed segments
	parts  *agedCache[*recordParts]
	damage damageLog
	// damageKept is the state of damage that the catalog has.
	damageKept atomic.Uint64
	scrub      scrubber
	repairs    repairs

	maintainMu sync.Mutex // one Maintain, Fork or Close at a time
	futile     bool       // there was nothing to reclaim of an overlay, guarded by maintainMu
	futileAt   uint64     // when so many records were appended; guarded by maintainMu
	stuck      bool       // damage stopped the last batch of destage; guarded by maintainMu
	batchLimit int        // segments of a batch of destage, 0: maxBatchSegments; guarded by maintainMu
	needed     bool       // an append has taken room, or was refused some: the point of KeepPoint may go; guarded by maintainMu
	yielding   bool       // what KeepPoint keeps does not count: see givePointUp; guarded by maintainMu
	sealMu     sync.Mutex // one sealing, or dropping, of segments at a time

	// appendMu orders appends. Its holder alone changes the tip.
	appendMu sync.Mutex
	active   *segment // nil before the first append and after a fork
	tipBytes int64    // the volume's size at the tip; size is it or larger
	renewing bool     // appends are of reclaimOverlay; see Allowance
	// forkFirst asks the next local append to begin a timeline of its own:
	// the store was not closed cleanly, or the timeline is another site's.
	forkFirst bool
	leap      *leap // what was received of one, nil: none
	// Scratch of the append path.
	headers []byte // room for MaxBatch headers
	iovecs  [][]byte
	records []Record

	dropMu    sync.Mutex // one removal of a dropped segment's file at a time
	spareMu   sync.Mutex // guards the supply of segment files
	free      []string   // files of dropped segments, to be reused
	reusePace reusePace
	nextID    segmentID
	ready     readySegments
	taken     atomic.Uint64 // segments that have become active since Open
	// What noteSyncs knows of the segment before the active one.
	syncsBefore uint64      // syncs when the active one was begun; guarded by appendMu
	zeroes      atomic.Bool // the next new file is worth filling with zeroes

	hurried atomic.Int32 // appends that wait for spareMu, and a Run that is to end

	stateMu sync.Mutex // one change of the catalog's state at a time

	flushMu  sync.Mutex
	flushing chan struct{} // closed when the sync under way ends; nil if none

	mu       sync.RWMutex
	state    catalogState
	tree     *tree
	pins     map[string]Position
	segments map[segmentID]*segment
	index    *liveIndex
	appended uint64     // records appended since Open
	flushed  uint64     // how many of them are durable
	durable  Position   // on the active timeline's path
	unsynced []*segment // hold records that are not known durable; the active one last
	toSeal   []*segment // complete, waiting for their footer
	failed   error      // first error that poisoned the store
	closed   bool
	forks    uint64        // counts changes of the active timeline
	changed  chan struct{} // closed and replaced when durable, forks, failed or closed change
	tailLost chan struct{} // closed when failed has become ErrTailLost

	durableSeq atomic.Uint64 // equals durable.Seq
	syncs      atomic.Uint64 // of the journal, that made records durable
	// flushedOften is set while each flush covers fewRecords or less, and no more were
	// appended since the last one.
	flushedOften atomic.Bool
	streaming    atomic.Bool   // see noteStreaming
	pressed      atomic.Bool   // room is being made: destage whatever is not held
	lastResort   atomic.Bool   // and readers must give way
	rushed       atomic.Bool   // destage takes all the time it can get: see yieldPoint
	tookSegment  atomic.Bool   // since destageDue looked last
	wasRefused   atomic.Bool   // since then
	catalogFull  atomic.Bool   // its last commit found no room
	copies       atomic.Bool   // the file system was seen not to write in place: see noteCopies
	appendFull   atomic.Bool   // and an append found no room because of that
	reclaims     atomic.Uint64 // times that room was made, or tried to
	hopes        atomic.Uint64 // see letGo
	short        shortage
	roomShort    atomic.Int64  // bytes that a journal of its own is to have free, and has not
	wake         chan struct{} // asks Run for a Maintain; capacity 1
	requests     atomic.Uint64 // reads and appends so far, for the pace of destage
	impatient    atomic.Int32  // callers that wait for maintainMu
	hurry        chan struct{} // ends a pause of destage; capacity 1
	wakeSupply   chan struct{} // asks Run to have segments ready; capacity 1
	wakeSeal     chan struct{} // asks Run to seal what is complete; capacity 1

	thinMu      sync.Mutex // one thinning at a time; before maintainMu
	thinTrouble string     // what was last logged of it; guarded by thinMu
	wakeThin    chan struct{}
	opened      time.Time
	replaced    []string // files found by Open that thinning has replaced

	buildMu    sync.Mutex // one making of index runs at a time
	runTrouble string     // what was last logged of it; guarded by buildMu
	refreshMu  sync.Mutex // one making of the live index's stack at a time
	runs       *runSet
	wakeRuns   chan struct{} // asks Run to make index runs; capacity 1
	closing    atomic.Bool   // ends the making of one, thinning, and the zeroing of a new file

	// Of thinning, guarded by mu.
	thinning *thinJob                   // whose result is being put in place
	moved    map[segmentID]*segment     // see moveLive
	spared   map[*segment]time.Duration // not worth to be thinned to an interval
	// not worth to be thinned for pins, and how many rewrites were found so
	sparedForPins map[*segment]pinSpare
	spareRuns     uint64
	thinned       ThinningStats

	holdMu sync.Mutex
	holds  map[*hold]struct{} // guarded by holdMu
	kept   keptPoint
	named  map[string]namedHold // of Hold, guarded by holdMu
}

// hold keeps the horizon from passing a position. One that yields does so
// only while the journal is not strained: a stuck peer must not cost writes.
type hold struct {
	at     Position
	yields bool
	// record keeps the horizon before the record at the position, too.
	record bool
	// point is that of KeepPoint: what lies behind it is not there for its sake, and it
	// gives way for want of room.
	point bool
}

// Volume returns the volume's id.
func (s *Store) Volume() VolumeID { return s.volume }

// SizeBytes returns the live volume's size, which never shrinks: after a fork
// it may be larger than the size at the tip's position (see SizeAt), and what
// lies beyond that reads as zeroes.
func (s *Store) SizeBytes() int64 { return s.size.Load() }

// Tip returns the newest position.
func (s *Store) Tip() Position {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tipLocked()
}

func (s *Store) tipLocked() Position {
	return Position{s.state.Active, s.tree.last[s.state.Active]}
}

// Durable returns the newest position that a power loss cannot take back.
func (s *Store) Durable() Position {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.durable
}

// Horizon returns the oldest position that can be opened.
func (s *Store) Horizon() Position {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.Horizon
}

// Path returns the runs from the horizon to the tip.
func (s *Store) Path() Path {
	s.mu.RLock()
	defer s.mu.RUnlock()
	path, err := s.tree.path(s.state.Horizon, s.tipLocked())
	if err != nil {
		panic(fmt.Sprintf("active timeline does not descend from the horizon: %v", err))
	}
	return path
}

// Timelines returns the known timelines, parents before their children.
func (s *Store) Timelines() []Timeline {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tree.sorted()
}

// Err returns the error that poisoned the store, or nil.
func (s *Store) Err() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.failed
}

// usable returns why the store cannot be used, or nil. mu must be held.
func (s *Store) usable() error {
	if s.closed {
		return ErrClosed
	}
	return s.failed
}

// poison records the first failed write or sync and returns it. What is
// durable is unknown from here on, so nothing more is acknowledged: a second
// fsync after a failed one may succeed without having written the data. Of
// what fails later, beside it, only a lost tail is added.
func (s *Store) poison(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	lost := errors.Is(err, ErrTailLost) && !errors.Is(s.failed, ErrTailLost)
	if s.failed != nil && lost {
		s.failed = fmt.Errorf("%w; %w", s.failed, err)
	}
	if s.failed == nil {
		s.failed = fmt.Errorf("%w: %w", ErrPoisoned, err)
		s.cfg.Log.Error("store poisoned; close and reopen it to recover", "volume", s.volume, "error", err)
		s.announceLocked()
	}
	if lost {
		close(s.tailLost)
	}
	return s.failed
}

// TailLost is closed once a sync of the journal has failed, and Err is ErrTailLost: whoever
// relies on what was appended has to begin anew.
func (s *Store) TailLost() <-chan struct{} { return s.tailLost }

// announceLocked wakes everyone who waits for the store to change.
func (s *Store) announceLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Store) wakeRun() { wake(s.wake) }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // a call is already pending
	}
}

// changeState commits a change of the catalog's state, together with what more
// writes, and then applies it in memory, where then runs with mu held. Errors
// as commit.
func (s *Store) changeState(change func(next *catalogState), more func(tx kv.Tx) error, then func()) error {
	s.stateMu.Lock()
	defer s.stateMu.Unlock()
	s.mu.RLock()
	next := s.state
	s.mu.RUnlock()
	change(&next)
	err := s.commit(func(tx kv.Tx) error {
		if more != nil {
			if err := more(tx); err != nil {
				return err
			}
		}
		return s.cat.saveState(tx, next)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = next
	if then != nil {
		then()
	}
	return nil
}

// commit runs one transaction of the catalog, durable on return. ErrFull, and
// an error of write itself, leave the catalog as it was and the store goes on.
// After any other error it is unknown which of the two states is on disk, and
// with it which timeline the next Open continues: the store is poisoned.
func (s *Store) commit(write func(tx kv.Tx) error) error {
	var refused error
	err := s.cat.update(func(tx kv.Tx) error {
		refused = write(tx)
		return refused
	})
	switch {
	case err == nil:
		s.catalogFull.Store(false)
		return nil
	case refused != nil:
		return err
	case errors.Is(err, vfs.ErrNoSpace) && s.cat.usable():
		s.catalogFull.Store(true)
		return mapFull(err)
	default:
		return s.poison(fmt.Errorf("commit to %s: %w", catalogFile, err))
	}
}

// Close flushes, seals and releases the store. Views and readers must have
// been closed. After an error everything acknowledged by Flush is still
// durable, and the next Open recovers. Close is idempotent.
func (s *Store) Close() error {
	s.closing.Store(true)
	s.repairs.mu.Lock()
	defer s.repairs.mu.Unlock()
	s.thinMu.Lock()
	defer s.thinMu.Unlock()
	patient := s.impatience()
	s.maintainMu.Lock()
	patient()
	defer s.maintainMu.Unlock()
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	s.buildMu.Lock()
	defer s.buildMu.Unlock()
	s.refreshMu.Lock()
	defer s.refreshMu.Unlock()
	s.mu.RLock()
	closed, failed := s.closed, s.failed
	s.mu.RUnlock()
	if closed {
		return nil
	}
	var err error
	s.dropLeap()
	if failed == nil {
		err = s.closeCleanly()
	} else {
		s.SyncTail()
	}
	// Whoever is sealing, making or removing a segment ends first, and finds the store
	// closed next.
	s.sealMu.Lock()
	defer s.sealMu.Unlock()
	s.dropMu.Lock()
	defer s.dropMu.Unlock()
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	s.mu.Lock()
	s.closed = true
	s.announceLocked()
	segments, stack := s.segments, s.index.stack
	s.index.stack = nil
	s.mu.Unlock()
	s.releaseStack(stack)
	return errors.Join(err, s.release(segments))
}

// closeCleanly leaves a catalog from which the next Open needs no recovery.
func (s *Store) closeCleanly() error {
	if err := s.syncJournal(); err != nil {
		return err
	}
	s.retireActive()
	if err := s.sealPending(); err != nil {
		return err
	}
	if err := s.keepDamage(); err != nil {
		return err
	}
	if s.forkFirst {
		return nil // still unclean: the next Open must fork as well
	}
	tip := s.Tip()
	if err := s.changeState(func(next *catalogState) { next.CleanTip = &tip }, nil, nil); err != nil {
		return fmt.Errorf("mark store clean: %w", err)
	}
	return nil
}

// release closes files and the lock. The lock goes last: a successor must
// find nobody writing.
func (s *Store) release(segments map[segmentID]*segment) error {
	var errs []error
	errs = append(errs, s.runs.closeAll())
	for _, g := range segments {
		errs = append(errs, g.file.Close())
	}
	for _, g := range s.ready.takeBehind(0) {
		errs = append(errs, g.file.Close())
	}
	if s.base != nil {
		errs = append(errs, s.base.Close())
	}
	if s.sums.file != nil {
		errs = append(errs, s.sums.file.Close())
	}
	if s.cat.db != nil {
		errs = append(errs, s.cat.db.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close store of volume %s: %w", s.volume, err)
	}
	return nil
}
