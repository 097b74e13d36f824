package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
)

// volume is one volume of the site.
type volume struct {
	// wake has a token when the volume is to be looked at again.
	wake chan struct{}

	// Guarded by Fleet.mu.
	record  record
	holds   int       // operations that need the engine
	until   time.Time // an engine that nothing wants is kept till then
	running bool      // a process may run
	node    string    // that it runs on, or was asked to; empty: not known
	address string    // of its control API
	// placed is the node that the engine which is being waited for has been given,
	// with the fence holding; empty: not yet.
	placed string
	// template is what the engine was made of, outdated that it is to be upgraded,
	// and held until when it is not to be.
	template string
	misses   int // attempts in a row, since it answered last, that found it not listening
	outdated bool
	held     time.Time
	client   *control.Client // nil while the engine does not answer
	state    control.State   // newest, of client
	failure  error           // why there is no client
	trouble  error           // why a backing volume is too small
	growing  bool            // it is being expanded
	// rigid is the journal budget that the backing volume has no room for and will
	// not have: its storage cannot grow it. 0: none.
	rigid int64
	// growAsked counts who found it too small.
	growAsked uint64
	gone      bool // deleted: tend ends
	making    bool // it is being made, and was in no group yet
	// delivered is the peer that was last known to hold all that is durable, and
	// the term; zero: none is known to.
	delivered delivery
	// abandoned: the engine is to be stopped, and none to run, until whoever
	// set it is done.
	abandoned bool
	// expected is the node that a new volume is going to be attached to, where an
	// engine that may run anywhere begins; empty: not known. Until expectedUntil one
	// runs there, so that it need not be waited for then.
	expected      string
	expectedUntil time.Time
	// withdrawn: the device is away, and stays so until the volume is writable
	// again, although it is attached: its group forks. The engine's orders are
	// without a device then, durably. A controller that starts anew gives it back,
	// or finishes the fork first: see ordersOfGroup.
	withdrawn bool
	// unserved: the last order that had a device in it was not carried out.
	unserved bool
	changed  chan struct{} // closed and replaced when client or state changes

	// labelled is the group that the backing volume says it is in. It is tend's.
	labelled string
}

// delivery is who has everything of a volume.
type delivery struct {
	peer string
	term group.Term
}

func newVolume(r record, running bool) *volume {
	return &volume{record: r, running: running, wake: make(chan struct{}, 1), changed: make(chan struct{})}
}

// poke has the volume looked at again.
func (v *volume) poke() {
	select {
	case v.wake <- struct{}{}:
	default: // it is going to be
	}
}

// notifyLocked wakes who waits for the engine. Fleet.mu is held.
func (v *volume) notifyLocked() {
	close(v.changed)
	v.changed = make(chan struct{})
}

// plan is what is to become of a volume's engine.
type plan struct {
	run  bool
	spec EngineSpec
	// again is when to look again without being woken; zero: never.
	again time.Time
	// leaving is the incarnation of the engine that was told to end by somebody else
	// when this was decided; empty: there was none.
	leaving string
}

// plan decides whether an engine is wanted, and where.
func (f *Fleet) plan(v *volume) plan {
	st, err := f.groups.State(f.recordOf(v).Group)
	known := err == nil
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &v.record
	// Until it is known what fences the backing volume, a lease does.
	p := plan{spec: EngineSpec{Volume: r.ID, Claim: r.Backing.Claim, Group: r.Group, Lease: r.Placement == nil || r.Placement.Lease,
		OwnJournal: r.Backing.JournalClass != ""}}
	switch {
	case v.gone, v.abandoned:
	case r.Attach != nil:
		p.run, p.spec.Node, p.spec.Attached = true, r.Attach.Node, true
	case v.holds > 0:
		p.run = true
	case r.Retired || !known:
	case st.Role == group.RoleReplica, st.Pending != nil, f.attachedLocked(st.Name), f.owesLocked(v, st):
		p.run = true
	}
	if v.leavesLocked() {
		p.leaving = v.state.Incarnation
	}
	now := f.cfg.Clock.Now()
	if !p.run && known && !r.Retired && !v.gone && !v.abandoned && now.Before(v.expectedUntil) {
		p.run, p.again = true, v.expectedUntil
	}
	if p.run {
		v.until = now.Add(f.cfg.Linger)
	} else if p.leaving != "" {
		v.until = now // it was kept long enough
	} else if v.running && now.Before(v.until) && !v.gone {
		p.run, p.again = true, v.until
	}
	if p.run && p.spec.Node == "" && v.running {
		p.spec.Node = v.node // wherever it is, it may stay
	} else if p.run && p.spec.Node == "" {
		p.spec.Node = v.expected
	}
	return p
}

// leavesLocked reports whether the engine was told to end by somebody else, who
// drains its node for example. One that is only kept needs no successor then.
// Fleet.mu is held.
func (v *volume) leavesLocked() bool { return v.client != nil && v.state.Leaving }

// attachedLocked reports whether any member of a group is attached. mu is held.
func (f *Fleet) attachedLocked(name string) bool {
	for _, v := range f.volumes {
		if v.record.Group == name && v.record.Attach != nil && !v.record.Retired {
			return true
		}
	}
	return false
}

// owesLocked reports whether a primary's volume holds what its peer is not known
// to hold. That does not wait until somebody uses the volume again. One that had
// no engine yet holds nothing. mu is held.
func (f *Fleet) owesLocked(v *volume, st group.State) bool {
	if v.record.Orders.Revision == 0 || st.Settings.ReplicateTo == "" || v.delivered == (delivery{st.Settings.ReplicateTo, st.Term}) {
		return false
	}
	_, isPeer := f.cfg.Peer(st.Settings.ReplicateTo)
	return isPeer
}

// noteDelivery keeps whether the peer has everything, by the word of the engine.
// mu is held.
func (v *volume) noteDelivery() {
	before := v.delivered
	v.delivered = delivery{}
	if r, s := v.state.Replication, v.state.Store; r != nil && s != nil && r.Connected && r.LagRecords == 0 && s.Tip == s.Durable {
		v.delivered = delivery{r.Peer, group.Term(v.state.Term)}
	}
	if v.delivered != before {
		v.poke() // the engine may not be wanted any more
	}
}

// retryPause is the time between two attempts to have an engine run. One that runs
// and does not listen yet, as at its start, is tried again after firstPause, and
// then after twice as long each time.
const (
	retryPause = time.Second
	firstPause = 50 * time.Millisecond
)

// pauseAfter is how long to wait after an attempt that ended with err.
func (f *Fleet) pauseAfter(v *volume, err error) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !connectionLost(err) || v.misses >= 5 { // 1.6 s
		return retryPause
	}
	v.misses++
	return firstPause << (v.misses - 1)
}

// tend keeps one volume's engine running where it is wanted, and stopped where
// it is not.
func (f *Fleet) tend(v *volume) {
	for f.ctx.Err() == nil {
		f.label(v)
		p := f.plan(v)
		f.mu.Lock()
		running, gone := v.running, v.gone
		f.mu.Unlock()
		switch {
		case running && (!p.run || f.mustMove(v, p)):
			f.stopEngine(v)
		case p.run:
			f.serve(v, p)
		case gone:
			return
		default:
			f.sleep(v, p.again)
		}
	}
}

// sleep waits until the volume is to be looked at again.
func (f *Fleet) sleep(v *volume, until time.Time) {
	var alarm <-chan time.Time
	if !until.IsZero() {
		timer := f.cfg.Clock.NewTimer(until.Sub(f.cfg.Clock.Now()))
		defer timer.Stop()
		alarm = timer.C()
	}
	select {
	case <-v.wake:
	case <-alarm:
	case <-f.ctx.Done():
	}
}

// stopEngine ends the engine's process; it returns without success to be
// called again.
func (f *Fleet) stopEngine(v *volume) {
	id := f.recordOf(v).ID
	if err := f.cfg.Engines.Stop(f.ctx, id); err != nil {
		f.fail(v, fmt.Errorf("stop engine of volume %s: %w", id, err))
		if !f.isClosed(err) {
			f.cfg.Log.Warn("engine does not stop", "volume", id, "error", err)
		}
		f.sleep(v, f.cfg.Clock.Now().Add(retryPause))
		return
	}
	f.mu.Lock()
	v.running, v.node, v.placed = false, "", ""
	v.notifyLocked()
	f.mu.Unlock()
	f.rest(f.recordOf(v).Group)
}

// restTimeout bounds how long a peer may take to hear that a group rests.
const restTimeout = 2 * time.Second

// rest stops the checkpoints of a group of which no engine is left.
func (f *Fleet) rest(name string) {
	unlock, err := f.locks.Lock(f.ctx, groupKey(name))
	if err != nil {
		return
	}
	defer unlock()
	if st, err := f.groups.State(name); err == nil && st.Role == group.RolePrimary && !(members{f}).Serving(st) {
		ctx, cancel := context.WithTimeout(f.ctx, restTimeout)
		defer cancel()
		f.groups.Rest(ctx, name)
	}
}

// serve has the engine run and watches it until it is gone or the plan is
// another one.
func (f *Fleet) serve(v *volume, p plan) {
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	f.mu.Lock()
	v.running = true
	if p.spec.Node != "" {
		v.node = p.spec.Node
	}
	f.mu.Unlock()
	ended, first := make(chan error, 1), p.spec
	f.joined.Go(func() { ended <- f.watch(ctx, v, first) })
	h := f.newHandover(ctx, v)
	defer h.giveUp()
	for {
		err, over := f.await(v, ended, h, p.again)
		if over {
			began := h.giveUp()
			f.lost(v, err)
			if errors.Is(err, ErrElsewhere) {
				f.stopEngine(v)
				return
			}
			if !began { // otherwise the successor is there, or soon
				f.sleep(v, f.cfg.Clock.Now().Add(f.pauseAfter(v, err)))
			}
			return
		}
		f.label(v)
		next := f.plan(v)
		if f.isFound(v, p.spec, next.spec) {
			next.spec = p.spec
		}
		if !next.run || f.mustMove(v, next) || next.spec != p.spec && !f.answers(v) {
			h.giveUp()
			cancel()
			f.lost(v, <-ended)
			return
		}
		if next.spec != p.spec {
			h.giveUp()
			// The connection stays: operations may be using it.
			if err := f.update(ctx, next); err != nil {
				f.cfg.Log.Warn("engine is not brought up to date", "volume", next.spec.Volume, "error", err)
				next.spec, next.again = p.spec, f.cfg.Clock.Now().Add(retryPause)
			}
		}
		p = next
		h.consider(p)
	}
}

// updateTimeout bounds how long an engine that runs is brought up to date: if
// its pod is being evicted, again and again perhaps, that ends only when the plan
// is another one, which is looked at afterwards.
const updateTimeout = 5 * time.Second

// update brings the engine up to date with a plan, until that is to be looked at
// again.
func (f *Fleet) update(ctx context.Context, p plan) error {
	timeout := updateTimeout
	if !p.again.IsZero() {
		timeout = min(timeout, max(0, p.again.Sub(f.cfg.Clock.Now())))
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := f.cfg.Engines.Run(ctx, p.spec, func(string) {})
	return err
}

// isFound reports whether what is wanted differs from before only in that it has
// become known where the engine runs, which is nothing to begin anew for.
func (f *Fleet) isFound(v *volume, before, wanted EngineSpec) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	there := before
	there.Node = wanted.Node
	return before.Node == "" && v.node != "" && wanted.Node == v.node && wanted == there
}

// answers reports whether the engine is connected.
func (f *Fleet) answers(v *volume) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return v.client != nil
}

// mustMove reports whether the engine that runs has to be stopped before the
// wanted one can run.
func (f *Fleet) mustMove(v *volume, p plan) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return v.node != "" && p.spec.Node != "" && v.node != p.spec.Node
}

// await waits until the engine is gone, which is over, or until the plan is to
// be looked at again.
func (f *Fleet) await(v *volume, ended <-chan error, h *handover, again time.Time) (err error, over bool) {
	var alarm <-chan time.Time
	if !again.IsZero() {
		timer := f.cfg.Clock.NewTimer(again.Sub(f.cfg.Clock.Now()))
		defer timer.Stop()
		alarm = timer.C()
	}
	select {
	case err := <-ended:
		return err, true
	case err := <-h.done:
		h.ended(err)
	case <-v.wake:
	case <-alarm:
	}
	return nil, false
}

// watch runs the engine and follows its state.
func (f *Fleet) watch(ctx context.Context, v *volume, spec EngineSpec) error {
	placement, err := f.ensureBacking(ctx, v)
	if err != nil {
		return err
	}
	at, err := f.cfg.Engines.Run(ctx, spec, func(node string) { f.place(v, node) })
	if err != nil {
		return fmt.Errorf("run engine: %w", err)
	}
	f.mu.Lock()
	v.node, v.address, v.template = at.Node, at.Address, at.Template
	f.mu.Unlock()
	if placement.Pending {
		if _, err := f.ensureBacking(ctx, v); err != nil {
			return err
		}
	}
	v.poke() // it may be elsewhere than is wanted by now
	conn, err := f.cfg.Dial(at.Address)
	if err != nil {
		return fmt.Errorf("dial engine: %w", err)
	}
	client := control.NewClient(spec.Volume, control.FromController(conn, f.number, f.noteReplaced))
	var greeting sync.WaitGroup
	met, over := false, make(chan struct{})
	err = client.Watch(ctx, func(s control.State) {
		f.mu.Lock()
		v.client, v.state, v.failure, v.misses = client, s, nil, 0
		v.noteDelivery()
		v.notifyLocked()
		f.mu.Unlock()
		if s.Leaving {
			v.poke()
		}
		if !met {
			met = true
			greeting.Go(func() { f.keepGreeted(ctx, v, client, over) })
		}
	})
	close(over)
	greeting.Wait()
	return errors.Join(err, conn.Close())
}

// place notes that the engine that is being waited for has its node.
func (f *Fleet) place(v *volume, node string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v.placed = node
	v.notifyLocked()
}

// lost notes that the engine does not answer any more.
func (f *Fleet) lost(v *volume, err error) {
	if err == nil || f.isClosed(err) {
		err = ErrNoEngine
	}
	f.fail(v, err)
	f.cfg.Log.Info("engine is not connected", "volume", f.recordOf(v).ID, "error", err)
}

func (f *Fleet) fail(v *volume, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v.client, v.placed, v.failure = nil, "", err
	v.notifyLocked()
}

// connected waits until the engine answers; the error says why it does not.
// ErrNotFound once the volume is being deleted.
func (f *Fleet) connected(ctx context.Context, v *volume) (*control.Client, error) {
	for {
		f.mu.Lock()
		client, changed, failure, title, gone := v.client, v.changed, v.failure, v.record.title(), v.gone
		f.mu.Unlock()
		if gone {
			return nil, fmt.Errorf("%s was deleted: %w", title, ErrNotFound)
		}
		if client != nil {
			return client, nil
		}
		select {
		case <-changed:
		case <-f.ctx.Done():
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the engine of %s: %w: %w: %w", title, ctx.Err(), ErrNoEngine, failure)
		}
	}
}

// hold has a volume's engine run until the returned function is called.
func (f *Fleet) hold(v *volume) (release func()) {
	f.mu.Lock()
	v.holds++
	f.mu.Unlock()
	v.poke()
	return sync.OnceFunc(func() {
		f.mu.Lock()
		v.holds--
		f.mu.Unlock()
		v.poke()
	})
}
