package enginepod

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// openStreams makes what takes a peer's streams, if it is to.
func (p *Pod) openStreams() error {
	if p.cfg.Peer == nil {
		return nil
	}
	var err error
	p.streams, err = replication.NewStreamServer(replication.StreamServerConfig{Site: p.cfg.Site, Volume: p.cfg.Volume,
		Orders: standing{p}, Stores: replicaStore{p}, Peer: p.cfg.Peer, Log: p.cfg.Log})
	return err
}

// RegisterStreams makes srv, which must have been made with
// replication.ServerOptions, take streams of replication.
func (p *Pod) RegisterStreams(srv *grpc.Server) {
	if p.streams != nil {
		p.streams.Register(srv)
	}
}

// sameStanding reports whether the same streams may be taken under both.
func sameStanding(a, b control.Orders) bool {
	return a.Group == b.Group && a.Term == b.Term && a.Role == b.Role && a.Source == b.Source
}

// standing implements replication.Orders.
type standing struct{ *Pod }

// Standing implements replication.Orders. A volume whose device is still there
// takes nothing: whoever has it open would see its content change. Nor does one whose
// next engine could take a device over that waits.
func (p standing) Standing(_ context.Context, name string) (replication.Standing, bool, error) {
	r := p.recordNow()
	if r.Orders.Term == 0 || r.Orders.Group != name {
		return replication.Standing{}, false, nil
	}
	if r.Orders.Role == control.Replica && (p.isAttached() || !r.devicesOutdated()) {
		return replication.Standing{}, false, fmt.Errorf("volume %s has a device on this site: %w", p.cfg.Volume, control.ErrDeviceInUse)
	}
	held := replication.Standing{Role: group.Role(r.Orders.Role), Term: group.Term(r.Orders.Term), Source: r.Orders.Source}
	return held.Fenced(group.Term(r.FencedBelow)), true, nil
}

// Fence implements replication.Orders.
func (p standing) Fence(_ context.Context, term group.Term) error { return p.fenceRecord(uint64(term)) }

// replicaStore implements replication.ReplicaStores with the one store.
type replicaStore struct{ *Pod }

// Replica implements replication.ReplicaStores.
func (p replicaStore) Replica(_ context.Context, _ string, id journal.VolumeID) (replication.ReplicaStore, error) {
	if id != p.cfg.Volume {
		return nil, fmt.Errorf("volume %s: %w", id, replication.ErrUnknownMember)
	}
	store := p.recordNow().Store
	if store == "" {
		return nil, fmt.Errorf("volume %s: %w", id, replication.ErrNoReplica)
	}
	p.storeTurn.Lock()
	defer p.storeTurn.Unlock()
	eng, err := p.openEngine(store)
	if err != nil {
		return nil, err
	}
	return eng.Store(), nil
}

// Import implements replication.ReplicaStores.
func (p replicaStore) Import(_ context.Context, _ string, spec replication.ImageSpec) (replication.Import, error) {
	// Before the image is sent in vain, and before what a record names that may be
	// durable is removed as the rest of an earlier one.
	if err := errors.Join(p.checkUnviewed(), p.recordDoubt()); err != nil {
		return nil, err
	}
	generation := p.recordNow().Generation + 1
	name := storeDir(generation)
	if err := p.removeStore(name); err != nil {
		return nil, fmt.Errorf("discard unfinished import: %w", err)
	}
	if err := p.makeStoreDir(name); err != nil {
		return nil, fmt.Errorf("make directory for an import: %w", err)
	}
	im, err := journal.NewImport(p.storeConfig(name), journal.Spec{Volume: spec.Volume, SizeBytes: spec.SizeBytes}, spec.At, spec.Timelines)
	if err != nil {
		return nil, err
	}
	return &replicaImport{Import: im, pod: p.Pod, generation: generation}, nil
}

// replicaImport implements replication.Import: a store of the next generation
// that takes the place of the present one when the record names it.
type replicaImport struct {
	*journal.Import
	pod        *Pod
	generation int
	filled     bool // it is a store
}

func (im *replicaImport) name() string { return storeDir(im.generation) }

// Commit implements replication.Import.
func (im *replicaImport) Commit(context.Context) (replication.ReplicaStore, error) {
	p := im.pod
	if !im.filled {
		if err := im.Import.Commit(); err != nil {
			return nil, p.discard(im.name(), err)
		}
		im.filled = true
	}
	p.storeTurn.Lock()
	defer p.storeTurn.Unlock()
	end, err := p.beginReplacing()
	if err != nil {
		return nil, err
	}
	defer end()
	old := p.recordNow().Store
	err = p.updateRecord(func(r *record) { r.Generation, r.Store = im.generation, im.name() })
	if err != nil && p.recordDoubt() != nil {
		return nil, err // the next process knows which of the two stores is the volume's
	}
	if err != nil {
		return nil, p.discard(im.name(), err)
	}
	if err := p.closeEngine(); err != nil {
		p.cfg.Log.Warn("closing a replaced store failed", "volume", p.cfg.Volume, "error", err)
	}
	eng, err := p.openEngine(im.name())
	if err != nil {
		return nil, err
	}
	if old != "" {
		if err := p.removeStore(old); err != nil {
			p.cfg.Log.Warn("removing a replaced store failed", "volume", p.cfg.Volume, "store", old, "error", err)
		}
	}
	return eng.Store(), nil
}

// Abort implements replication.Import.
func (im *replicaImport) Abort() error {
	return im.pod.discard(im.name(), im.Import.Abort())
}
