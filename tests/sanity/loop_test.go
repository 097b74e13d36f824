package sanity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/csikeys"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/node"
)

// loopBackend keeps volumes as sparse files, copies them for pins, and
// attaches them with losetup: the plainest thing that behaves as the CSI
// services need it, to test them apart from the journal.
type loopBackend struct {
	dir string

	mu     sync.Mutex // guards the fields below, and orders all changes
	specs  map[journal.VolumeID]controller.StoreSpec
	loops  map[journal.VolumeID]string
	points map[string]controller.PinnedPoint
	next   journal.CheckpointNumber
}

var (
	_ controller.Backend = (*loopBackend)(nil)
	_ node.Devices       = (*loopBackend)(nil)
)

// GroupSettings implements controller.Backend: there is nobody who would change them.
func (b *loopBackend) GroupSettings(context.Context, string) (group.Settings, error) {
	return group.Settings{}, controller.ErrNotFound
}

func newLoopBackend(dir string) *loopBackend {
	return &loopBackend{
		dir: dir, specs: make(map[journal.VolumeID]controller.StoreSpec),
		loops: make(map[journal.VolumeID]string), points: make(map[string]controller.PinnedPoint),
	}
}

// Close detaches what is still attached.
func (b *loopBackend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var failed []error
	for id := range maps.Clone(b.loops) {
		failed = append(failed, b.detach(id))
	}
	return errors.Join(failed...)
}

func (b *loopBackend) image(id journal.VolumeID) string {
	return filepath.Join(b.dir, id.String()+".img")
}

func (b *loopBackend) pinned(pin string, id journal.VolumeID) string {
	return filepath.Join(b.dir, pin+"@"+id.String())
}

func tool(name string, args ...string) (string, error) {
	output, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, output)
	}
	return strings.TrimSpace(string(output)), err
}

func copyImage(from, to string) error {
	_, err := tool("cp", "--sparse=always", "--reflink=auto", from, to)
	return err
}

// topology is where volumes of the sanity tests can be used.
var topology = []map[string]string{{csikeys.TopologyNode: nodeID}}

func (b *loopBackend) CreateStore(_ context.Context, spec controller.StoreSpec) ([]map[string]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.specs[spec.ID]; ok {
		return topology, nil
	}
	if spec.Source != nil {
		if err := copyImage(b.pinned(spec.Source.Pin, spec.Source.Member), b.image(spec.ID)); err != nil {
			return topology, err
		}
	} else if err := os.WriteFile(b.image(spec.ID), nil, 0o600); err != nil {
		return topology, err
	}
	b.specs[spec.ID] = spec
	return topology, os.Truncate(b.image(spec.ID), spec.SizeBytes)
}

func (b *loopBackend) RetireStore(_ context.Context, id journal.VolumeID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if spec, ok := b.specs[id]; ok {
		spec.Group = ""
		b.specs[id] = spec
	}
	return nil
}

func (b *loopBackend) DeleteStore(_ context.Context, id journal.VolumeID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.specs, id)
	if err := os.Remove(b.image(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (b *loopBackend) ExpandStore(_ context.Context, id journal.VolumeID, sizeBytes int64) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	spec, ok := b.specs[id]
	if !ok {
		return 0, controller.ErrNotFound
	}
	spec.SizeBytes = max(spec.SizeBytes, sizeBytes)
	b.specs[id] = spec
	if err := os.Truncate(b.image(id), spec.SizeBytes); err != nil {
		return 0, err
	}
	if loop, ok := b.loops[id]; ok {
		_, err := tool("losetup", "-c", loop)
		return spec.SizeBytes, err
	}
	return spec.SizeBytes, nil
}

func (b *loopBackend) ModifyGroup(context.Context, string, group.Settings) error { return nil }

func (b *loopBackend) Attach(_ context.Context, id journal.VolumeID, _ string, options controller.AttachOptions) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.loops[id]; ok {
		return nil
	}
	args := []string{"--find", "--show", "--sector-size", strconv.Itoa(options.BlockBytes)}
	if options.ReadOnly {
		args = append(args, "--read-only")
	}
	loop, err := tool("losetup", append(args, b.image(id))...)
	if err == nil {
		b.loops[id] = loop
	}
	return err
}

func (b *loopBackend) Detach(_ context.Context, id journal.VolumeID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.detach(id)
}

func (b *loopBackend) detach(id journal.VolumeID) error {
	loop, ok := b.loops[id]
	if !ok {
		return nil
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err == nil && strings.Contains(string(mounts), loop+" ") {
		return controller.ErrInUse
	}
	if _, err := tool("losetup", "--detach", loop); err != nil {
		return err
	}
	delete(b.loops, id)
	return nil
}

func (b *loopBackend) TakePin(_ context.Context, groupName, pin string, at controller.Moment) (controller.PinnedPoint, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if point, ok := b.points[pin]; ok {
		return point, nil
	}
	if !at.IsPresent() {
		return controller.PinnedPoint{}, fmt.Errorf("%w: this backend keeps no history", controller.ErrNoPoint)
	}
	b.next++
	point := controller.PinnedPoint{Checkpoint: b.next, Time: time.Now(), Members: make(map[journal.VolumeID]int64)}
	for id, spec := range b.specs {
		if spec.Group != groupName {
			continue
		}
		if err := copyImage(b.image(id), b.pinned(pin, id)); err != nil {
			return point, err
		}
		point.Members[id] = spec.SizeBytes
	}
	b.points[pin] = point
	return point, nil
}

func (b *loopBackend) ReleasePin(_ context.Context, _, pin string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range b.points[pin].Members {
		if err := os.Remove(b.pinned(pin, id)); err != nil {
			return err
		}
	}
	delete(b.points, pin)
	return nil
}

func (b *loopBackend) Capacity(context.Context, controller.CapacityQuery) (controller.Capacity, error) {
	return controller.Capacity{AvailableBytes: 1 << 40}, nil
}

func (b *loopBackend) Health(context.Context, journal.VolumeID) ([]controller.Condition, error) {
	return nil, nil
}

func (b *loopBackend) Ready(context.Context) error { return nil }

func (b *loopBackend) Await(ctx context.Context, id journal.VolumeID) (string, error) {
	return b.Device(ctx, id)
}

func (b *loopBackend) Device(_ context.Context, id journal.VolumeID) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	loop, ok := b.loops[id]
	if !ok {
		return "", node.ErrNotFound
	}
	return loop, nil
}
