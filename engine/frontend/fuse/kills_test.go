package fuse

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

const (
	stormSectors = 512
	stormWindow  = 24 // requests in flight
)

// storm is a kernel that keeps many requests in flight at an engine over a store, kills
// the engine now and then, and has the next one answer for it.
type storm struct {
	t    *testing.T
	rng  *rand.Rand // of the goroutine that sends
	fs   *vfs.Mem
	h    *history
	kern *fakeKernel
	slot chan struct{} // one for each request in flight

	eng     *engine.Engine
	ending  func()
	working sync.WaitGroup

	mu      sync.Mutex
	killed  bool // nothing counts that comes from this engine
	unique  uint64
	pending map[uint64]*inFlight
	flushed int64 // changes that were answered before are durable
	synced  map[*change]bool
	failed  error
}

// inFlight is a request without an answer.
type inFlight struct {
	msg    []byte
	change *change // nil for others
	sync   bool
	sent   int64
	read   int // sectors
	first  int
	by     *fakeKernel // the connection that it was sent over first
}

func (s *storm) config() journal.Config {
	return journal.Config{FS: s.fs, Dir: "/store", SegmentBytes: journal.MinSegmentBytes, JournalBytes: 3 * journal.MinSegmentBytes}
}

func (s *storm) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil && err != nil {
		s.failed = err
	}
}

// start begins an engine's process. One behind the first takes the connection over.
func (s *storm) start(takeover bool) {
	s.t.Helper()
	store, err := journal.Open(s.config())
	if err != nil {
		s.t.Fatal(err)
	}
	s.eng, s.kern, s.killed = engine.New(store), newFakeKernel(s.t), false
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	eng, k := s.eng, s.kern
	// Its own memory of bursts, and a second reader: they meet in the device.
	go func() {
		served <- Serve(ctx, Session{Conn: k.conn, Init: testInit, Takeover: takeover}, eng, Options{Readers: 2, Receivers: 6, Waiters: 4})
	}()
	s.working.Go(func() {
		if err := store.Run(ctx); err != nil && ctx.Err() == nil {
			s.fail(err)
		}
	})
	rng := rand.New(rand.NewPCG(s.rng.Uint64(), 1))
	s.working.Go(func() { s.takePoints(ctx, eng, rng) })
	s.working.Go(func() { s.takeAnswers(k) })
	s.ending = func() {
		_ = k.side.Close()
		// The others are a socket's ways of saying that the other side is gone.
		if err := <-served; err != nil && !errors.Is(err, ErrUnmounted) && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
			s.t.Errorf("serve: %v", err)
		}
		cancel()
		s.working.Wait()
		if err := store.Close(); err != nil {
			s.t.Error(err)
		}
	}
}

// takePoints takes checkpoints, some of which come to nothing, and compares what they
// hold with what was answered, and sent, before.
func (s *storm) takePoints(ctx context.Context, eng *engine.Engine, rng *rand.Rand) {
	for round := uint64(1); ctx.Err() == nil; round++ {
		hold := time.Duration(1+rng.IntN(20)) * time.Millisecond
		if err := eng.Prepare(ctx, round, hold); err != nil {
			continue
		}
		if rng.IntN(3) == 0 {
			eng.Abort(round)
			continue
		}
		from := s.h.now()
		at, err := eng.Commit(round, journal.Checkpoint{Number: journal.CheckpointNumber(round), Time: time.Unix(int64(round), 0)})
		to := s.h.now()
		if err != nil {
			continue
		}
		if err := s.checkPoint(eng.Store(), at, from, to); err != nil {
			s.fail(fmt.Errorf("checkpoint %d: %w", round, err))
			return
		}
	}
}

func (s *storm) checkPoint(store *journal.Store, at journal.Position, from, to int64) error {
	view, err := store.View(at)
	if errors.Is(err, journal.ErrHorizon) || errors.Is(err, journal.ErrClosed) {
		return nil
	}
	if err != nil {
		return err
	}
	p := make([]byte, stormSectors*engine.SectorBytes)
	if err := errors.Join(view.ReadAt(p, 0), view.Close()); err != nil {
		return err
	}
	return s.h.check(p, 0, from, to)
}

// takeAnswers takes what an engine says until its connection ends.
func (s *storm) takeAnswers(k *fakeKernel) {
	p := make([]byte, 2<<20)
	for {
		n, err := k.side.Read(p)
		if err != nil || n == 0 {
			return
		}
		msg := p[:n]
		if unique := binary.LittleEndian.Uint64(msg[8:]); unique != 0 {
			s.fail(s.answer(unique, syscall.Errno(-int32(binary.LittleEndian.Uint32(msg[4:]))), msg[outHeaderBytes:]))
		} else {
			s.resend(k)
		}
	}
}

// resend queues again what no engine has answered, in any order.
func (s *storm) resend(k *fakeKernel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	again := map[uint64]*inFlight{}
	for unique, r := range s.pending {
		if again[unique] = r; r.by == k {
			continue // the engine has not read it, or answers it
		}
		delete(again, unique)
		unique |= 1 << 63
		binary.LittleEndian.PutUint64(r.msg[8:], unique)
		again[unique] = r
		if _, err := k.side.Write(r.msg); err != nil && !s.killed {
			s.t.Error(err)
		}
	}
	s.pending = again
}

// answer judges the answer to a request.
func (s *storm) answer(unique uint64, errno syscall.Errno, body []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.killed {
		return nil
	}
	r := s.pending[unique]
	switch {
	case r == nil:
		return fmt.Errorf("answer to %#x, which waits for none", unique)
	case errno != 0:
		return fmt.Errorf("request %#x fails: %w", unique, errno)
	}
	delete(s.pending, unique)
	<-s.slot
	switch {
	case r.read > 0 && len(body) != r.read*engine.SectorBytes:
		return fmt.Errorf("a read of %d sectors is answered with %d bytes", r.read, len(body))
	case r.read > 0:
		return s.h.read(body, r.first, r.sent)
	case r.change != nil:
		s.h.end(r.change)
		if r.sync {
			s.synced[r.change] = true
		}
	default: // a flush
		s.flushed = max(s.flushed, r.sent)
	}
	return nil
}

// send sends one random request.
func (s *storm) send() {
	s.slot <- struct{}{}
	first := s.rng.IntN(stormSectors / 4)
	if s.rng.IntN(4) == 0 {
		first = s.rng.IntN(stormSectors)
	}
	count := min(1<<s.rng.IntN(7), stormSectors-first)
	if s.rng.IntN(3) > 0 {
		count = min(1+s.rng.IntN(8), stormSectors-first)
	}
	off, length := uint64(first)*engine.SectorBytes, uint64(count)*engine.SectorBytes
	r := &inFlight{first: first, by: s.kern}
	switch s.rng.IntN(16) {
	case 0:
		r.sent, r.msg = s.h.now(), message(opFsync, 0, nodeFile, uint64(1), uint64(0))
	case 1:
		r.change = s.h.begin(first, count, true)
		mode := fallocPunchHole | fallocKeepSize
		if s.rng.IntN(2) == 0 {
			mode = fallocZeroRange | fallocKeepSize
		}
		r.msg = message(opFallocate, 0, nodeFile, kernelFallocate{Offset: off, Length: length, Mode: mode})
	case 2, 3, 4, 5, 6:
		r.read, r.sent = count, s.h.now()
		r.msg = message(opRead, 0, nodeFile, kernelRead{Offset: off, Size: uint32(length)})
	default:
		r.change = s.h.begin(first, count, false)
		in := kernelRead{Offset: off, Size: uint32(length)}
		if r.sync = s.rng.IntN(10) == 0; r.sync {
			in.Flags = unix.O_DSYNC
		}
		r.msg = message(opWrite, 0, nodeFile, in, string(r.change.content()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unique += 2
	binary.LittleEndian.PutUint64(r.msg[8:], s.unique)
	s.pending[s.unique] = r
	if _, err := s.kern.side.Write(r.msg); err != nil {
		s.t.Error(err)
	}
}

// kill ends the engine without a word, in the middle of whatever it does.
func (s *storm) kill() {
	s.mu.Lock()
	s.killed = true
	after := s.fs.KillClone()
	s.mu.Unlock()
	s.h.mu.Lock()
	s.h.kills = s.h.tick()
	s.h.mu.Unlock()
	s.ending()
	s.fs = after
}

// cut is a power loss: the kernel goes as well, and with it all that is in flight.
func (s *storm) cut() {
	s.t.Helper()
	s.fs = s.fs.Crash(s.rng)
	for range s.pending {
		<-s.slot
	}
	s.pending = map[uint64]*inFlight{}
	store, err := journal.Open(s.config())
	if err != nil {
		s.t.Fatal(err)
	}
	image := make([]byte, stormSectors*engine.SectorBytes)
	if err := errors.Join(store.ReadAt(image, 0), store.Close()); err != nil {
		s.t.Fatal(err)
	}
	flushed, synced := s.flushed, s.synced
	if err := s.h.recovered(image, func(c *change) bool { return c.done < flushed || synced[c] }); err != nil {
		s.t.Fatalf("after a power loss: %v", err)
	}
	s.flushed, s.synced = 0, map[*change]bool{}
}

// drain waits for the answer to each request.
func (s *storm) drain() {
	for range cap(s.slot) {
		s.slot <- struct{}{}
	}
	for range cap(s.slot) {
		<-s.slot
	}
}

func (s *storm) check() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		s.t.Fatal(s.failed)
	}
}

// TestKilledEnginesUnderIO has the whole path from the kernel's requests to the journal
// under load while engines are killed, taken over, and lose power: no answer is wrong,
// missing or given twice. LOCKSTEP_TEST_SEEDS runs more seeds.
func TestKilledEnginesUnderIO(t *testing.T) {
	seeds := 4
	if text := os.Getenv("LOCKSTEP_TEST_SEEDS"); text != "" {
		var err error
		if seeds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { runStorm(t, seed) })
	}
}

func runStorm(t *testing.T, seed uint64) {
	s := &storm{t: t, rng: rand.New(rand.NewPCG(seed, 5)), fs: vfs.NewMem(), h: newHistory(stormSectors),
		slot: make(chan struct{}, stormWindow), pending: map[uint64]*inFlight{}, synced: map[*change]bool{}}
	if err := journal.Create(s.config(), journal.Spec{Volume: journal.VolumeID{9}, SizeBytes: stormSectors * engine.SectorBytes}); err != nil {
		t.Fatal(err)
	}
	s.start(false)
	for range 6 {
		for range 100 + s.rng.IntN(400) {
			s.send()
		}
		s.check()
		s.kill()
		takeover := s.rng.IntN(3) > 0
		if !takeover {
			s.cut()
		}
		s.start(takeover)
	}
	s.drain()
	s.ending()
	s.check()
}
