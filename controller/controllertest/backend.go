package controllertest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/csikeys"
	"github.com/lockstep-csi/lockstep/journal"
)

// Store is a volume as the backend has it.
type Store struct {
	Spec    controller.StoreSpec
	Content string // stands for the image; copied from the source
	Retired bool
	// Replica: another site is the primary. Spared: it was when the store was to be retired.
	Replica, Spared bool
	Attached        *controller.AttachOptions
	Node            string // that it was attached to last
	Open            bool   // by a user: it cannot be detached
}

// pinned is a pin with the images that it keeps.
type pinned struct {
	group  string
	point  controller.PinnedPoint
	images map[journal.VolumeID]string
	going  bool // ReleasePin was called
}

// checkpoint is one point of a group's history.
type checkpoint struct {
	point  controller.PinnedPoint
	images map[journal.VolumeID]string
}

type groupState struct {
	settings group.Settings
	history  []checkpoint
}

// Backend implements controller.Backend in memory. It outlives the servers
// that use it, as disks outlive processes.
type Backend struct {
	mu     sync.Mutex
	now    time.Time
	next   journal.CheckpointNumber
	stores map[journal.VolumeID]*Store
	groups map[string]*groupState
	pins   map[string]pinned

	// Before and After run around every call that changes something, with the
	// backend's lock held; an error ends the call without or with its effect.
	// Set them only while no call runs.
	Before, After func(call string) error
	// Conditions is what Health returns.
	Conditions map[journal.VolumeID][]controller.Condition
	// Topology is what CreateStore returns.
	Topology []map[string]string
	// AvailableBytes is what Capacity returns, and bounds CreateStore and
	// ExpandStore; 0 is no bound.
	AvailableBytes int64
	// Copying, when not nil, makes a CreateStore with a Source a copy that takes
	// its time: it receives from Copying once when it begins, and once more
	// before it ends.
	Copying chan struct{}
	// Attaching, when not nil, has Attach wait, as for an engine: it receives from
	// Attaching once when it begins, and once more before it ends.
	Attaching chan struct{}
	// Expanding, when not nil, has ExpandStore wait in the same way.
	Expanding chan struct{}
}

var _ controller.Backend = (*Backend)(nil)

// NewBackend returns a backend without volumes, whose clock stands at start
// and advances by a second with every checkpoint.
func NewBackend(start time.Time) *Backend {
	return &Backend{
		Topology: []map[string]string{{csikeys.TopologyNode: "node-1"}},
		now:      start, stores: make(map[journal.VolumeID]*Store),
		groups: make(map[string]*groupState), pins: make(map[string]pinned),
	}
}

// change runs fn between Before and After.
func (b *Backend) change(ctx context.Context, call string, fn func() error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.Before != nil {
		if err := b.Before(call); err != nil {
			return err
		}
	}
	if err := fn(); err != nil {
		return err
	}
	if b.After != nil {
		return b.After(call)
	}
	return nil
}

// twice receives two times from a channel that is not nil.
func twice(ctx context.Context, from chan struct{}) error {
	if from == nil {
		return nil
	}
	for range 2 {
		select {
		case <-from:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// CreateStore implements controller.Backend.
func (b *Backend) CreateStore(ctx context.Context, spec controller.StoreSpec) ([]map[string]string, error) {
	if spec.Source != nil {
		if err := twice(ctx, b.Copying); err != nil {
			return nil, err
		}
	}
	return b.Topology, b.change(ctx, "CreateStore", func() error { return b.createStore(spec) })
}

func (b *Backend) createStore(spec controller.StoreSpec) error {
	if b.AvailableBytes > 0 && spec.SizeBytes > b.AvailableBytes {
		return fmt.Errorf("%d bytes are available: %w", b.AvailableBytes, controller.ErrExhausted)
	}
	if old, ok := b.stores[spec.ID]; ok {
		if old.Retired || old.Spec.Group != spec.Group {
			return controller.ErrExists
		}
		return nil
	}
	store := &Store{Spec: spec}
	if spec.Source != nil {
		pin, ok := b.pins[spec.Source.Pin]
		content, member := pin.images[spec.Source.Member]
		if !ok || !member || pin.group != spec.Source.Group {
			return fmt.Errorf("pin %s: %w", spec.Source.Pin, controller.ErrNotFound)
		}
		if pin.point.Members[spec.Source.Member] > spec.SizeBytes {
			return fmt.Errorf("broken promise: the image is bigger than the volume")
		}
		store.Content = content
	}
	b.stores[spec.ID] = store
	if b.groups[spec.Group] == nil {
		b.groups[spec.Group] = &groupState{settings: spec.Settings}
	}
	return nil
}

// RetireStore implements controller.Backend.
func (b *Backend) RetireStore(ctx context.Context, id journal.VolumeID) error {
	return b.change(ctx, "RetireStore", func() error {
		store, ok := b.stores[id]
		if !ok {
			return nil
		}
		if store.Attached != nil {
			return fmt.Errorf("broken promise: %s is attached", id)
		}
		if store.Replica {
			store.Spared = true
			return nil
		}
		store.Retired, store.Spared = true, false
		b.dropEmptyGroup(store.Spec.Group)
		return nil
	})
}

// DeleteStore implements controller.Backend.
func (b *Backend) DeleteStore(ctx context.Context, id journal.VolumeID) error {
	return b.change(ctx, "DeleteStore", func() error {
		store, ok := b.stores[id]
		if !ok {
			return nil
		}
		if store.Spared {
			return nil
		}
		if store.Attached != nil || !store.Retired {
			return fmt.Errorf("broken promise: %s is attached or not retired", id)
		}
		for name, pin := range b.pins {
			if _, member := pin.images[id]; member && !pin.going {
				return fmt.Errorf("broken promise: pin %s needs %s", name, id)
			}
		}
		delete(b.stores, id)
		return nil
	})
}

func (b *Backend) dropEmptyGroup(name string) {
	if len(b.members(name)) == 0 {
		delete(b.groups, name)
	}
}

func (b *Backend) members(name string) []journal.VolumeID {
	var ids []journal.VolumeID
	for id, store := range b.stores {
		if store.Spec.Group == name && !store.Retired {
			ids = append(ids, id)
		}
	}
	return ids
}

// ExpandStore implements controller.Backend.
func (b *Backend) ExpandStore(ctx context.Context, id journal.VolumeID, sizeBytes int64) (newBytes int64, err error) {
	if err := twice(ctx, b.Expanding); err != nil {
		return 0, err
	}
	err = b.change(ctx, "ExpandStore", func() error {
		store, ok := b.stores[id]
		if !ok {
			return controller.ErrNotFound
		}
		if b.AvailableBytes > 0 && sizeBytes-store.Spec.SizeBytes > b.AvailableBytes {
			return controller.ErrExhausted
		}
		store.Spec.SizeBytes = max(store.Spec.SizeBytes, sizeBytes)
		newBytes = store.Spec.SizeBytes
		return nil
	})
	return newBytes, err
}

// GroupSettings implements controller.Backend.
func (b *Backend) GroupSettings(_ context.Context, name string) (group.Settings, error) {
	settings, ok := b.Settings(name)
	if !ok {
		return settings, controller.ErrNotFound
	}
	return settings, nil
}

// ModifyGroup implements controller.Backend.
func (b *Backend) ModifyGroup(ctx context.Context, name string, settings group.Settings) error {
	return b.change(ctx, "ModifyGroup", func() error {
		g, ok := b.groups[name]
		if !ok {
			return controller.ErrNotFound
		}
		g.settings = settings
		return nil
	})
}

// Attach implements controller.Backend.
func (b *Backend) Attach(ctx context.Context, id journal.VolumeID, node string, options controller.AttachOptions) error {
	if err := twice(ctx, b.Attaching); err != nil {
		return err
	}
	return b.change(ctx, "Attach", func() error {
		store, ok := b.stores[id]
		if !ok || store.Retired {
			return controller.ErrNotFound
		}
		if store.Attached != nil && store.Node != node {
			return fmt.Errorf("attached to node %s: %w", store.Node, controller.ErrInUse)
		}
		store.Attached, store.Node = &options, node
		return nil
	})
}

// Detach implements controller.Backend.
func (b *Backend) Detach(ctx context.Context, id journal.VolumeID) error {
	return b.change(ctx, "Detach", func() error {
		store, ok := b.stores[id]
		if !ok {
			return nil
		}
		if store.Open {
			return controller.ErrInUse
		}
		store.Attached = nil
		return nil
	})
}

// TakePin implements controller.Backend.
func (b *Backend) TakePin(ctx context.Context, groupName, name string, at controller.Moment) (controller.PinnedPoint, error) {
	var point controller.PinnedPoint
	err := b.change(ctx, "TakePin", func() error {
		if old, ok := b.pins[name]; ok {
			point = old.point
			return nil
		}
		cut, err := b.find(groupName, at)
		if err != nil {
			return err
		}
		point = cut.point
		b.pins[name] = pinned{group: groupName, point: cut.point, images: cut.images}
		return nil
	})
	return point, err
}

func (b *Backend) find(groupName string, at controller.Moment) (checkpoint, error) {
	g, ok := b.groups[groupName]
	if !ok {
		return checkpoint{}, controller.ErrNotFound
	}
	if at.IsPresent() {
		return b.checkpoint(groupName), nil
	}
	for _, cut := range slices.Backward(g.history) {
		if cut.point.Checkpoint == at.Checkpoint || (at.Checkpoint == 0 && !cut.point.Time.After(at.Time)) {
			return cut, nil
		}
	}
	if at.Checkpoint == 0 {
		return checkpoint{}, fmt.Errorf("%w: %s is before the oldest point", controller.ErrPointGone, at)
	}
	return checkpoint{}, fmt.Errorf("%w: checkpoint %s", controller.ErrNoPoint, at)
}

// Checkpoint takes a checkpoint of a group, as its coordinator does.
func (b *Backend) Checkpoint(groupName string) controller.PinnedPoint {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.checkpoint(groupName).point
}

func (b *Backend) checkpoint(groupName string) checkpoint {
	b.next++
	b.now = b.now.Add(time.Second)
	cut := checkpoint{
		point:  controller.PinnedPoint{Checkpoint: b.next, Time: b.now, Members: make(map[journal.VolumeID]int64)},
		images: make(map[journal.VolumeID]string),
	}
	for _, id := range b.members(groupName) {
		cut.point.Members[id] = b.stores[id].Spec.SizeBytes
		cut.images[id] = b.stores[id].Content
	}
	g := b.groups[groupName]
	g.history = append(g.history, cut)
	return cut
}

// ReleasePin implements controller.Backend.
func (b *Backend) ReleasePin(ctx context.Context, _, name string) error {
	b.mu.Lock()
	if pin, ok := b.pins[name]; ok {
		pin.going = true
		b.pins[name] = pin
	}
	b.mu.Unlock()
	return b.change(ctx, "ReleasePin", func() error {
		delete(b.pins, name)
		return nil
	})
}

// Capacity implements controller.Backend.
func (b *Backend) Capacity(context.Context, controller.CapacityQuery) (controller.Capacity, error) {
	return controller.Capacity{AvailableBytes: b.AvailableBytes}, nil
}

// Health implements controller.Backend.
func (b *Backend) Health(_ context.Context, id journal.VolumeID) ([]controller.Condition, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Conditions[id], nil
}

// Ready implements controller.Backend.
func (b *Backend) Ready(context.Context) error { return nil }

// Write replaces a volume's content.
func (b *Backend) Write(id journal.VolumeID, content string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stores[id].Content = content
}

// SetReplica says whether another site is the primary of a volume.
func (b *Backend) SetReplica(id journal.VolumeID, replica bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stores[id].Replica = replica
}

// SetOpen says whether a volume's device is in use.
func (b *Backend) SetOpen(id journal.VolumeID, open bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stores[id].Open = open
}

// Stores returns a copy of all stores.
func (b *Backend) Stores() map[journal.VolumeID]Store {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make(map[journal.VolumeID]Store, len(b.stores))
	for id, store := range b.stores {
		out[id] = *store
	}
	return out
}

// Pins returns the names of all pins in ascending order.
func (b *Backend) Pins() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.pins))
}

// Settings returns a group's settings; false if there is no such group.
func (b *Backend) Settings(name string) (group.Settings, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	g, ok := b.groups[name]
	if !ok {
		return group.Settings{}, false
	}
	return g.settings, true
}
