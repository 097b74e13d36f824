package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"testing"
	"time"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// Size of what TestLeapSimulation replicates: volumes that are full of what nobody
// compresses, of which a part is overwritten again and again.
const (
	leapVolumeBytes = 6 << 20
	leapHotBytes    = 128 << 10
	leapWriteBytes  = 32 << 10
)

// leapWorld is two sites with two members of a group, over stores of package
// journal whose history thins, and a link.
type leapWorld struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	clock   *clock.Manual
	sites   [2]*leapSite
	primary int
	streams [2]*leapStream // by member; nil: none
	codec   *codec
	// sums is the oracle: a checksum of the part that is overwritten, at
	// every position that a primary has written; cuts is that of checkpoints.
	sums   [2]map[journal.Position]uint32
	cuts   map[[2]int64][2]journal.Position
	number int64
	counts leapCounts
	trace  []string
	// sentBytes is the data that sources have sent; knowsLeaps is whether
	// replicas say that they take leaps.
	sentBytes  int64
	knowsLeaps bool
	// back is where the primary's members were before the last rewind; nil: nowhere to
	// return to. pending is a fork of all members that is under way. split: the old primary
	// does not know of the new one yet.
	back    *[2]journal.Position
	pending *leapFork
	split   bool
	forks   int
}

// leapCounts shows that the simulation came to what it is meant to try.
type leapCounts struct {
	Leaps, Forked, Resumed, Images, CrashesInLeap, FaultsInLeap, Damaged, Rewrites, Rewinds, Failovers, Points int
	Undone, Halves, Restarts, Trimmed, Kept, Split                                                             int
}

type leapSite struct {
	w       *leapWorld
	name    string
	members [2]*leapMember
}

// leapMember is a site's store of a volume; it is what its replica finds there.
type leapMember struct {
	w      *leapWorld
	volume journal.VolumeID
	index  int
	cfg    journal.Config
	disk   *vfs.Mem
	fault  *vfs.Fault
	store  *journal.Store
	images *partialImages
}

// leapStream is a connection; messages travel encoded.
type leapStream struct {
	src       *source
	rep       *replica
	begun     bool
	toReplica [][]byte
	toSource  [][]byte
	damaged   bool
}

func newLeapWorld(t *testing.T, seed uint64) *leapWorld {
	t.Helper()
	c, err := newCodec(false)
	if err != nil {
		t.Fatal(err)
	}
	w := &leapWorld{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 9)), clock: clock.NewManual(time.Unix(1_800_000_000, 0)), codec: c,
		cuts: map[[2]int64][2]journal.Position{}, knowsLeaps: true}
	for i := range w.sites {
		w.sites[i] = &leapSite{w: w, name: string(rune('a' + i))}
		for v := range w.sites[i].members {
			w.sites[i].members[v] = &leapMember{w: w, volume: journal.VolumeID{byte(v + 1)}, index: v, images: newPartialImages()}
		}
	}
	for v, m := range w.sites[0].members {
		w.sums[v] = map[journal.Position]uint32{}
		m.fresh()
		if err := journal.Create(m.cfg, journal.Spec{Volume: m.volume, SizeBytes: leapVolumeBytes}); err != nil {
			t.Fatal(err)
		}
		m.open()
		for off := int64(0); off < leapVolumeBytes; off += 1 << 20 {
			w.write(m, off, 1<<20)
		}
		w.mustFlush(m)
	}
	return w
}

func (w *leapWorld) close() {
	for _, s := range w.sites {
		for _, m := range s.members {
			m.close()
		}
	}
}

func (w *leapWorld) fail(err error) {
	w.t.Helper()
	for _, line := range w.trace[max(0, len(w.trace)-40):] {
		w.t.Log(line)
	}
	w.t.Fatalf("seed %d, step %d: %v (run it with LOCKSTEP_SIM_SEED=%d)", w.seed, len(w.trace), err, w.seed)
}

func (w *leapWorld) logf(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

// fresh gives the member an empty disk.
func (m *leapMember) fresh() {
	m.disk = vfs.NewMem()
	m.fault = vfs.NewFault(m.disk)
	history, err := journal.ParseHistory("10s:1m,30s:30m,5m:10h")
	if err != nil {
		m.w.fail(err)
	}
	m.cfg = journal.Config{FS: m.fault, Dir: "store", Clock: m.w.clock, Random: randomBytes{m.w.rng}, SegmentBytes: journal.MinSegmentBytes, History: history}
}

func (m *leapMember) open() {
	store, err := journal.Open(m.cfg)
	if err != nil {
		m.w.fail(fmt.Errorf("open store: %w", err))
	}
	m.store = store
	if f := m.w.pending; f != nil && f.site.members[m.index] == m {
		store.KeepPoint(store.Horizon(), 0) // what it held is to be there still
	}
}

func (m *leapMember) close() {
	if m.store != nil {
		_ = m.store.Close() // its disk may be gone, or broken
		m.store = nil
	}
}

// crash loses the member's process and what its disk had not synced.
func (m *leapMember) crash() {
	if m.store == nil {
		return
	}
	disk := m.disk.Crash(m.w.rng)
	m.close()
	m.disk, m.fault, m.images = disk, vfs.NewFault(disk), newPartialImages()
	m.cfg.FS = m.fault
	m.open()
	if m.w.isPrimary(m) {
		m.w.note(m) // recovery begins a timeline of its own
	}
}

// heal takes back faults that have not come about.
func (m *leapMember) heal() {
	if m.fault != nil { // else it has no disk yet
		m.fault.Mend()
	}
}

func (w *leapWorld) isPrimary(m *leapMember) bool { return w.sites[w.primary].members[m.index] == m }

// Replica and Import make the member what a replica asks for its store.
func (m *leapMember) Replica(context.Context, string, journal.VolumeID) (ReplicaStore, error) {
	if m.store == nil {
		return nil, ErrNoReplica
	}
	if m.store.Err() != nil {
		m.crash()
	}
	return m.store, nil
}

func (m *leapMember) Import(_ context.Context, _ string, spec ImageSpec) (Import, error) {
	next := &leapMember{w: m.w, volume: m.volume, index: m.index}
	next.fresh()
	im, err := journal.NewImport(next.cfg, journal.Spec{Volume: spec.Volume, SizeBytes: spec.SizeBytes}, spec.At, spec.Timelines)
	if err != nil {
		return nil, err
	}
	return &leapImport{im, m, next}, nil
}

type leapImport struct {
	*journal.Import
	old, next *leapMember
}

func (im *leapImport) Commit(context.Context) (ReplicaStore, error) {
	if err := im.Import.Commit(); err != nil {
		return nil, err
	}
	m := im.old
	m.close()
	m.cfg, m.disk, m.fault = im.next.cfg, im.next.disk, im.next.fault
	m.open()
	m.w.counts.Images++
	return m.store, nil
}

// note enters where a primary stands into the oracle.
func (w *leapWorld) note(m *leapMember) {
	p := make([]byte, leapHotBytes)
	if err := m.store.ReadAt(p, 0); err != nil {
		w.fail(err)
	}
	w.sums[m.index][m.store.Tip()] = crc32.ChecksumIEEE(p)
}

// write appends one record.
func (w *leapWorld) write(m *leapMember, off, length int64) {
	p := bytes.Repeat([]byte{0}, int(length))
	for i := 0; i < len(p); i += 8 {
		p[i], p[i+3] = byte(w.rng.Uint32()), byte(w.rng.Uint32())
	}
	if _, err := m.store.Write(p, off); err != nil {
		w.fail(err)
	}
	w.note(m)
}

func (w *leapWorld) mustFlush(m *leapMember) {
	if err := m.store.Flush(context.Background()); err != nil {
		w.fail(err)
	}
}

// tick is ten seconds of the primary: some writes, and a checkpoint of the group.
func (w *leapWorld) tick() { w.tickOf(w.sites[w.primary]) }

func (w *leapWorld) tickOf(s *leapSite) {
	if s == nil {
		return
	}
	for _, m := range s.members {
		if m.heal(); m.store.Err() != nil { // broken while it was fed
			m.crash()
		}
	}
	w.clock.Advance(10 * time.Second)
	w.number++
	key := [2]int64{w.number, w.clock.Now().UnixNano()}
	var cut [2]journal.Position
	for v, m := range s.members {
		for range 3 {
			w.write(m, w.rng.Int64N(leapHotBytes/leapWriteBytes)*leapWriteBytes, leapWriteBytes)
		}
		if w.rng.IntN(4) == 0 {
			if _, err := m.store.Discard(w.rng.Int64N(leapHotBytes/4096)*4096, 4096); err != nil {
				w.fail(err)
			}
			w.note(m)
		}
		at, err := m.store.Checkpoint(journal.Checkpoint{Number: journal.CheckpointNumber(key[0]), Time: time.Unix(0, key[1]),
			CheckpointInfo: journal.CheckpointInfo{Group: modelGroup, Members: []journal.VolumeID{{1}, {2}}}})
		if err != nil {
			w.fail(err)
		}
		w.note(m)
		w.mustFlush(m)
		cut[v] = at
	}
	w.cuts[key] = cut
}

// maintain has a member thin what is due.
func (w *leapWorld) maintain(m *leapMember) {
	if m.store == nil || m.store.Err() != nil {
		return
	}
	before := m.store.Stats().Thinning.Rewrites
	if err := m.store.Maintain(context.Background()); err != nil && !errors.Is(err, journal.ErrPoisoned) && !errors.Is(err, errDisk) {
		w.fail(fmt.Errorf("maintain: %w", err))
	}
	w.counts.Rewrites += int(m.store.Stats().Thinning.Rewrites - before)
}

// connect opens a member's stream.
func (w *leapWorld) connect(v int) {
	// A promotion that is not finished sends nothing, and a site that does not know of it
	// takes nothing.
	if w.streams[v] != nil || w.split || w.pending != nil && w.pending.failover {
		return
	}
	from, to := w.sites[w.primary].members[v], w.sites[1-w.primary].members[v]
	st := &leapStream{}
	st.src = &source{group: modelGroup, term: 1, store: OpenSource(from.store), codec: w.codec, stats: newVolumeStats(from.volume, w.clock)}
	m, err := st.src.hello()
	if err != nil {
		w.fail(err)
	}
	h, err := decodeHello(decode[replicationv1.SourceMessage](w, encode(w, m)).GetHello())
	if err != nil {
		w.fail(err)
	}
	st.rep = &replica{hello: h, stores: to, codec: w.codec, images: to.images}
	w.streams[v] = st
	welcome, err := st.rep.open(context.Background(), 256<<10)
	if err != nil {
		w.end(v, err)
		return
	}
	st.toSource = append(st.toSource, encode(w, welcome))
}

// end closes a member's stream. Only what the world has broken may end one with
// an error that an honest peer is not to meet.
func (w *leapWorld) end(v int, cause error) {
	st := w.streams[v]
	for _, dishonest := range []error{ErrProtocol, journal.ErrCorrupt, ErrLimit, ErrAhead, journal.ErrGap} {
		if errors.Is(cause, dishonest) && !st.damaged {
			w.fail(fmt.Errorf("member %d: stream ends with %w", v, cause))
		}
	}
	w.logf("stream of member %d ends: %v", v, cause)
	st.src.close()
	w.streams[v] = nil
}

// countMessage notes what is sent.
func (w *leapWorld) countMessage(m *replicationv1.SourceMessage) {
	switch {
	case m.GetLeapStart().GetThrough() > 0:
		w.counts.Resumed++
	case m.GetLeapEnd() != nil:
		w.counts.Leaps++
		if m.GetLeapEnd().GetTimeline() != nil {
			w.counts.Forked++
		}
	}
}
