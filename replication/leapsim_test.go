package replication

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"testing"
	"time"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

const (
	leapSeeds = 12
	leapSteps = 1500
)

// TestLeapSimulation: replicas are away for long while their sources thin, and
// catch up over a link that loses, exchanges and damages messages, with disks that
// fail and processes that are killed on either side, rewinds, their undoing, and failovers, which stop
// halfway, histories that are cut off, and an old primary that writes on. At
// every step a replica stands where a primary once stood and reads as that did; every point
// that all members list is the group's cut.
func TestLeapSimulation(t *testing.T) {
	first, last := seedRange(t, leapSeeds)
	var total leapCounts
	for seed := first; seed <= last && !t.Failed(); seed++ {
		total.add(simulateLeaps(t, seed))
	}
	t.Logf("%d seeds of %d steps: %+v", last-first+1, leapSteps, total)
	if last-first+1 >= leapSeeds {
		total.demandAll(t)
	}
}

func simulateLeaps(t *testing.T, seed uint64) leapCounts {
	w := newLeapWorld(t, seed)
	defer w.close() // before the next seed: its disks are in memory
	for range leapSteps {
		w.step()
		w.check()
	}
	w.settle()
	return w.counts
}

// TestLeapSimulationSeeds are seeds that have found something. 18: the source's path leaves a
// timeline in the middle of a thinned segment, of which nothing is left behind that; each
// stream ended there, and the replica stood for ever.
func TestLeapSimulationSeeds(t *testing.T) {
	simulateLeaps(t, 18)
}

func (c *leapCounts) fields() []*int {
	return []*int{&c.Leaps, &c.Resumed, &c.Images, &c.CrashesInLeap, &c.FaultsInLeap, &c.Damaged, &c.Rewrites, &c.Rewinds, &c.Failovers, &c.Points, &c.Undone, &c.Halves, &c.Restarts, &c.Trimmed, &c.Kept, &c.Split, &c.Forked}
}

func (c *leapCounts) add(other leapCounts) {
	from := other.fields()
	for i, to := range c.fields() {
		*to += *from[i]
	}
}

// demandAll leaves out leaps that end at a fork, which have a test of their own.
func (c *leapCounts) demandAll(t *testing.T) {
	for i, n := range c.fields()[:16] {
		if *n == 0 {
			t.Errorf("the simulation never came to case %d of %+v", i, *c)
		}
	}
}

func (w *leapWorld) step() {
	v := w.rng.IntN(2)
	switch n := w.rng.IntN(1000); {
	case n < 20:
		w.tickOf(w.writer())
	case n < 25:
		w.absence()
	case n < 40:
		w.maintain(w.sites[w.rng.IntN(2)].members[v])
	case n < 80:
		w.connect(v)
	case n < 84:
		if w.streams[v] != nil {
			w.end(v, errors.New("connection lost"))
		}
	case n < 90:
		w.crashReplica(v)
	case n < 92:
		w.crashPrimary(v)
	case n < 96:
		w.breakDisk(v)
	case n < 100:
		w.damage(v)
	case n < 102:
		w.rewind()
	case n < 103:
		w.failover()
	case n < 104:
		w.undo()
	case n < 107:
		w.finish()
	case n < 109:
		w.restart(w.sites[w.rng.IntN(2)].members[v])
	case n < 111:
		w.squeeze(w.sites[w.rng.IntN(2)])
	case n < 112:
		w.split = false
	default:
		w.advance(v)
	}
}

// absence is long enough for history to be thinned, with the link down.
func (w *leapWorld) absence() {
	if w.pending != nil {
		return // what it is to return to is held, and that may end meanwhile
	}
	w.logf("absence")
	for v := range w.streams {
		if w.streams[v] != nil {
			w.end(v, errors.New("link is down"))
		}
	}
	for range 40 {
		w.tickOf(w.writer())
	}
	w.clock.Advance(11 * time.Minute) // and nobody has just been opened
	w.tickOf(w.writer())
	for _, m := range w.sites[w.primary].members {
		w.maintain(m)
	}
}

// advance moves a member's stream by one message.
func (w *leapWorld) advance(v int) {
	st := w.streams[v]
	if st == nil {
		return
	}
	switch w.rng.IntN(4) {
	case 0, 1:
		w.send(v, st)
	case 2:
		w.deliver(v, st)
	case 3:
		w.answer(v, st)
	}
}

func (w *leapWorld) send(v int, st *leapStream) {
	if !st.begun {
		return
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel() // so that nothing is waited for
	m, err := st.src.next(ended)
	switch {
	case errors.Is(err, errNoCredit), errors.Is(err, context.Canceled):
	case err != nil:
		w.end(v, err)
	default:
		w.countMessage(m)
		w.sentBytes += int64(dataBytes(m))
		st.toReplica = append(st.toReplica, encode(w, m))
	}
}

func (w *leapWorld) deliver(v int, st *leapStream) {
	for n := 1 + w.rng.IntN(3); n > 0 && len(st.toReplica) > 0; n-- {
		m := decode[replicationv1.SourceMessage](w, st.toReplica[0])
		st.toReplica = st.toReplica[1:]
		if err := st.rep.handle(context.Background(), m); err != nil {
			if st.damaged {
				w.counts.Damaged++
			}
			w.end(v, err)
			return
		}
	}
	ack, err := st.rep.settle(context.Background())
	if err != nil {
		w.end(v, err)
	} else if ack != nil {
		st.toSource = append(st.toSource, encode(w, ack))
	}
}

func (w *leapWorld) answer(v int, st *leapStream) {
	if len(st.toSource) == 0 {
		return
	}
	m := decode[replicationv1.ReplicaMessage](w, st.toSource[0])
	st.toSource = st.toSource[1:]
	var err error
	if !st.begun {
		if !w.knowsLeaps {
			m.GetWelcome().Leaps, m.GetWelcome().Leap = false, nil
		}
		err = st.src.begin(m.GetWelcome(), 1<<20)
		st.begun = err == nil
	} else {
		err = st.src.acknowledge(m.GetAck())
	}
	if err != nil {
		w.end(v, err)
	}
}

func (w *leapWorld) inLeap(v int) bool {
	st := w.streams[v]
	return st != nil && st.rep.leaping
}

func (w *leapWorld) crashReplica(v int) {
	if w.inLeap(v) {
		w.counts.CrashesInLeap++
	}
	if w.streams[v] != nil {
		w.end(v, errors.New("replica crashes"))
	}
	w.sites[1-w.primary].members[v].crash()
}

func (w *leapWorld) crashPrimary(v int) {
	if w.streams[v] != nil {
		w.end(v, errors.New("primary crashes"))
	}
	w.sites[w.primary].members[v].crash()
}

// breakDisk makes the next write, or sync, at the replica fail.
func (w *leapWorld) breakDisk(v int) {
	m := w.sites[1-w.primary].members[v]
	if m.store == nil {
		return
	}
	if w.inLeap(v) {
		w.counts.FaultsInLeap++
	}
	op, err := vfs.OpWrite, errDisk
	if w.rng.IntN(2) == 0 {
		op = vfs.OpSync
	}
	if w.rng.IntN(2) == 0 {
		op, err = vfs.OpWrite, vfs.ErrNoSpace
	}
	m.fault.FailAfter(1, err, op)
}

// damage repeats, exchanges, drops or damages messages under way.
func (w *leapWorld) damage(v int) {
	st := w.streams[v]
	if st == nil || len(st.toReplica) < 2 {
		return
	}
	st.damaged = true
	i := w.rng.IntN(len(st.toReplica) - 1)
	switch w.rng.IntN(4) {
	case 0:
		st.toReplica = slices.Insert(st.toReplica, i, st.toReplica[i])
	case 1:
		st.toReplica[i], st.toReplica[i+1] = st.toReplica[i+1], st.toReplica[i]
	case 2:
		st.toReplica = slices.Delete(st.toReplica, i, i+1)
	case 3:
		m := decode[replicationv1.SourceMessage](w, st.toReplica[i])
		data := m.GetBatch().GetData()
		if len(data) == 0 {
			return
		}
		data[w.rng.IntN(len(data))] ^= 1 << w.rng.IntN(8)
		st.toReplica[i] = encode(w, m)
	}
}

// common are the checkpoints that all members of a site list, oldest first.
func (w *leapWorld) common(s *leapSite) (keys [][2]int64) {
	var lists [2]map[[2]int64]journal.Position
	for v, m := range s.members {
		if m.store == nil || m.store.Err() != nil {
			return nil
		}
		lists[v] = map[[2]int64]journal.Position{}
		for _, c := range m.store.Checkpoints() {
			lists[v][[2]int64{int64(c.Number), c.Time.UnixNano()}] = c.Position
		}
	}
	for key, at := range lists[0] {
		other, ok := lists[1][key]
		if !ok {
			continue
		}
		if cut := w.cuts[key]; cut != [2]journal.Position{at, other} {
			w.fail(fmt.Errorf("site %s has point %d at %s and %s, the cut was at %v", s.name, key[0], at, other, cut))
		}
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b [2]int64) int { return int(a[0] - b[0]) })
	return keys
}

// check compares where the replica stands with the oracle, and now and then all
// of its points.
func (w *leapWorld) check() {
	s := w.sites[1-w.primary]
	for v, m := range s.members {
		if m.store == nil || m.store.Err() != nil {
			continue
		}
		tip := m.store.Tip()
		want, known := w.sums[v][tip]
		if !known {
			if line := w.parentOf(m, tip); line != (journal.Position{}) {
				want, known = w.sums[v][line]
			}
		}
		if !known {
			w.fail(fmt.Errorf("member %d of %s stands at %s, where no primary stood", v, s.name, tip))
		}
		if got := w.sum(m.store); got != want {
			w.fail(fmt.Errorf("member %d of %s reads otherwise at %s", v, s.name, tip))
		}
	}
	if w.rng.IntN(60) == 0 {
		w.checkPoints(s)
	}
}

// parentOf is where a timeline without a record forks, which recovery has made.
func (w *leapWorld) parentOf(m *leapMember, tip journal.Position) journal.Position {
	for {
		i := slices.IndexFunc(m.store.Timelines(), func(t journal.Timeline) bool { return t.ID == tip.Timeline })
		if i < 0 || m.store.Timelines()[i].Parent.Seq != tip.Seq {
			return journal.Position{}
		}
		tip = m.store.Timelines()[i].Parent
		if _, ok := w.sums[m.index][tip]; ok {
			return tip
		}
	}
}

func (w *leapWorld) sum(from interface{ ReadAt([]byte, int64) error }) uint32 {
	p := make([]byte, leapHotBytes)
	if err := from.ReadAt(p, 0); err != nil {
		w.fail(err)
	}
	return crc32.ChecksumIEEE(p)
}

// checkPoints opens all points that the members of a site have in common.
func (w *leapWorld) checkPoints(s *leapSite) {
	for _, key := range w.common(s) {
		for v, m := range s.members {
			at := w.cuts[key][v]
			view, err := m.store.View(at)
			if err != nil {
				w.fail(fmt.Errorf("open point %d of member %d: %w", key[0], v, err))
			}
			if got := w.sum(view); got != w.sums[v][at] {
				w.fail(fmt.Errorf("member %d of %s reads otherwise at point %d", v, s.name, key[0]))
			}
			_ = view.Close()
			w.counts.Points++
		}
	}
}

// settle ends all faults and demands that both sites come to the same.
func (w *leapWorld) settle() {
	w.split = false
	w.complete()
	if w.forks > 0 {
		w.tick() // a timeline without a record is not told of
	}
	for v, m := range w.sites[1-w.primary].members {
		if w.streams[v] != nil {
			w.end(v, errors.New("connection lost"))
		}
		m.heal()
	}
	for range 20000 {
		done := true
		for v, m := range w.sites[1-w.primary].members {
			w.connect(v)
			w.advance(v)
			done = done && m.store != nil && m.store.Err() == nil && m.store.Durable() == w.sites[w.primary].members[v].store.Durable()
		}
		w.check()
		if done {
			w.checkPoints(w.sites[1-w.primary])
			return
		}
	}
	w.fail(errors.New("the sites do not come to the same state"))
}

// TestLeapSendsLessThanAnImage counts what a replica is sent that comes back after
// an absence, and what an older one is sent, which does not say that it takes leaps.
func TestLeapSendsLessThanAnImage(t *testing.T) {
	for name, knows := range map[string]bool{"leaps": true, "older replica": false} {
		t.Run(name, func(t *testing.T) {
			w := newLeapWorld(t, 1)
			defer w.close()
			w.tick()
			w.settle()
			before, images := w.sentBytes, w.counts.Images
			had := w.common(w.sites[1])
			w.absence()
			w.knowsLeaps = knows
			w.settle()
			sent := w.sentBytes - before
			written := int64(41 * 3 * leapWriteBytes * 2)
			t.Logf("%d bytes sent for two volumes of %d after %d bytes were written to them; %d leaps, %d images",
				sent, leapVolumeBytes, written, w.counts.Leaps, w.counts.Images-images)
			if !knows {
				if w.counts.Leaps != 0 || w.counts.Images != images+2 || sent < 2*leapVolumeBytes {
					t.Errorf("a replica that takes no leaps was sent %d of them and %d images", w.counts.Leaps, w.counts.Images-images)
				}
				return
			}
			if w.counts.Leaps != 2 || w.counts.Images != images || sent >= written || sent >= 2*leapVolumeBytes {
				t.Errorf("%d leaps and %d images", w.counts.Leaps, w.counts.Images-images)
			}
			// Of each member, what it had, and what the source has.
			if have := w.common(w.sites[1]); have[0] != had[0] || have[len(have)-1] != w.common(w.sites[0])[len(w.common(w.sites[0]))-1] {
				t.Errorf("the replica's points are %v", have)
			}
		})
	}
}
