package fleet

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

func groupKey(name string) string { return groups.Key(name) }

// turnKey is held by who changes a volume's record and sends orders: one at a
// time, for as long as carrying them out takes.
func turnKey(id journal.VolumeID) string { return "orders/" + id.String() }

// reorder changes a volume's orders with edit (nil: brings them up to date with
// its group), saves them, and has them carried out. ErrNoEngine, with the
// orders saved, when the engine does not answer: they are sent when it does.
func (f *Fleet) reorder(ctx context.Context, v *volume, edit func(*control.Orders)) (control.State, error) {
	return f.send(ctx, v, edit, (*control.Client).Order)
}

// send is reorder by a call of the engine's.
func (f *Fleet) send(ctx context.Context, v *volume, edit func(*control.Orders),
	call func(*control.Client, context.Context, control.Orders) (control.State, error)) (control.State, error) {
	unlock, err := f.locks.Lock(ctx, turnKey(f.recordOf(v).ID))
	if err != nil {
		return control.State{}, err
	}
	defer unlock()
	f.mu.Lock()
	r, client, failure, withdrawn, store := v.record, v.client, v.failure, v.withdrawn, v.state.Store
	f.mu.Unlock()
	next, err := f.ordersFor(r, store)
	if err != nil {
		return control.State{}, err
	}
	if withdrawn {
		next.Attach = nil
	}
	if edit != nil {
		edit(&next)
	}
	changed, arrives := !reflect.DeepEqual(next, r.Orders), store != nil && !mayMake(r, nil)
	if changed {
		next.Revision++
	}
	if changed || arrives {
		r.Orders, r.Arrived = next, r.Arrived || arrives
		if err := f.setRecord(v, r); err != nil {
			return control.State{}, err
		}
	}
	if client == nil {
		return control.State{}, fmt.Errorf("order %s: %w: %w", r.title(), ErrNoEngine, orUnknown(failure))
	}
	state, err := call(client, ctx, next)
	f.mu.Lock()
	defer f.mu.Unlock()
	if next.Attach != nil {
		v.unserved = err != nil
	}
	if err != nil {
		return state, fmt.Errorf("order %s: %w", r.title(), err)
	}
	if v.client == client {
		v.state = state
		v.noteDelivery()
		v.notifyLocked()
	}
	return state, nil
}

var errNotRunning = errors.New("it is not running")

func orUnknown(err error) error {
	if err == nil {
		return errNotRunning
	}
	return err
}

// ordersFor are a volume's orders as its record and its group say, with the
// revision and the writability of the last ones. store is what its engine has told.
func (f *Fleet) ordersFor(r record, store *control.StoreState) (control.Orders, error) {
	o := control.Orders{Volume: r.ID, Group: r.Group, Revision: r.Orders.Revision, Writable: r.Orders.Writable, SizeBytes: r.SizeBytes, Term: 1, Role: control.Primary}
	if r.Attach != nil && !r.Attach.Leaving {
		how := r.Attach.Attach
		o.Attach = &how
	}
	st, err := f.groups.State(r.Group)
	switch {
	case errors.Is(err, group.ErrNotFound) || r.Retired:
		o.Writable, o.Term = false, max(1, r.Orders.Term)
	case err != nil:
		return control.Orders{}, err
	default:
		f.ordersOfGroup(&o, st)
		if r.Backing.JournalClass != "" { // the budget grows behind the claim
			o.JournalBytes = min(journalBytes(st.Settings, r.SizeBytes), r.Backing.JournalBytes)
		}
	}
	if !mayMake(r, store) {
		o.SizeBytes = 0
	}
	if o.Role == control.Primary && r.Fill != nil {
		if o.Fill, err = f.fillOf(*r.Fill); err != nil {
			return control.Orders{}, err
		}
	}
	return o, nil
}

// ordersOfGroup is the part of orders that the group decides.
func (f *Fleet) ordersOfGroup(o *control.Orders, st group.State) {
	o.Term, o.Window, o.History, o.JournalBytes = uint64(st.Term), st.Settings.Window, st.Settings.History, st.Settings.JournalBytes
	if st.Role == group.RoleReplica {
		o.Role, o.Source, o.Writable, o.Attach, o.SizeBytes = control.Replica, st.Source, false, nil, 0
		if st.Claimed() == group.RolePrimary { // its term is this site's, at which nobody else has anything to send
			o.Source = ""
		}
		return
	}
	if st.Pending != nil { // an engine that has a device does not fork
		o.Attach = nil
	}
	if peer := st.Settings.ReplicateTo; peer != "" {
		if to, ok := f.cfg.Peer(peer); ok {
			o.Peer = &control.Peer{Site: peer, Address: to.Address}
		}
	}
}

// keepGreeted greets an engine, and greets it again when that failed, or when it is found not to
// be as its group says, until its connection is over: one that has just started may not be able to carry
// its orders out yet; who told it, or took a fence back, may have given up in
// the middle; and nobody else would do it as long as the engine answers.
func (f *Fleet) keepGreeted(ctx context.Context, v *volume, client *control.Client, over <-chan struct{}) {
	trouble := "" // that was logged last
	for {
		err := f.greet(ctx, v, client)
		if err != nil && ctx.Err() == nil && err.Error() != trouble {
			trouble = err.Error()
			r := f.recordOf(v)
			f.cfg.Log.Warn("engine is not brought up to date; it is tried again", "volume", r.ID, "group", r.Group, "error", err)
		}
		for again := false; !again; again = err != nil || f.isBehind(v) {
			timer := f.cfg.Clock.NewTimer(f.cfg.KeepPointEvery)
			select {
			case <-timer.C():
			case <-over:
				timer.Stop()
				return
			}
		}
	}
}

// isBehind reports whether an engine that has orders is not at its group's term, or is
// fenced with no promote under way.
func (f *Fleet) isBehind(v *volume) bool {
	r := f.recordOf(v)
	st, err := f.groups.State(r.Group)
	if err != nil || r.Retired {
		return false
	}
	f.mu.Lock()
	term := v.state.Term
	f.mu.Unlock()
	return term != 0 && term != uint64(st.Term) || f.isFenced(v, st)
}

// greet brings an engine that has just answered up to date, and then has its
// group look at its members again. One that is to be filled has its orders from who has
// it filled: they take as long as the copy, and the group's key is not held so long.
func (f *Fleet) greet(ctx context.Context, v *volume, client *control.Client) error {
	r := f.recordOf(v)
	if r.Fill != nil {
		return nil
	}
	unlock, err := f.locks.Lock(ctx, groupKey(r.Group))
	if err != nil {
		return err
	}
	defer unlock()
	// Read first: the fence of a promote that begins from here on is above it.
	claimed := f.claimedTerm(r.Group)
	if st, err := f.groups.State(r.Group); err == nil && f.isFenced(v, st) {
		if err := client.Lift(ctx, uint64(claimed), uint64(st.Term)); err != nil {
			f.cfg.Log.Warn("a fence that no promote followed is not lifted", "volume", r.ID, "group", r.Group, "error", err)
		}
	}
	if _, err := f.reorder(ctx, v, nil); err != nil {
		return fmt.Errorf("engine does not carry out its orders: %w", err)
	}
	if err := f.groups.Refresh(ctx, r.Group); err != nil {
		return fmt.Errorf("group does not go on: %w", err)
	}
	return nil
}

// isFenced reports whether an engine refuses the term that its group has, and
// no promote is under way.
func (f *Fleet) isFenced(v *volume, st group.State) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return v.state.FencedBelow > uint64(st.Term) && f.promotes[st.Name] == 0
}
