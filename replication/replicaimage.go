package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

// partialImage is an image sync that is not complete. It outlives the stream
// that began it, so that the next one can go on.
type partialImage struct {
	group string // that the volume is in; guarded by partialImages.mu
	spec  ImageSpec
	into  Import
	next  int64 // everything below is there
}

// partialImages keeps a server's incomplete images: at most one per volume.
// The image itself belongs to the holder of the volume's pass.
type partialImages struct {
	mu     sync.Mutex
	images map[journal.VolumeID]*partialImage
}

func newPartialImages() *partialImages {
	return &partialImages{images: make(map[journal.VolumeID]*partialImage)}
}

func (p *partialImages) of(volume journal.VolumeID) *partialImage {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.images[volume]
}

func (p *partialImages) put(im *partialImage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.images[im.spec.Volume] = im
}

func (p *partialImages) forget(volume journal.VolumeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.images, volume)
}

// settle makes the images of a group's members the group's, and discards those that it has
// of volumes which are none. No stream of another group, or of one of these, may be at work.
func (p *partialImages) settle(group string, members []journal.VolumeID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for volume, im := range p.images {
		switch member := slices.Contains(members, volume); {
		case member:
			im.group = group
		case im.group == group:
			delete(p.images, volume)
			errs = append(errs, im.into.Abort())
		}
	}
	return errors.Join(errs...)
}

// abort discards the images of a group, or of all groups for "". No stream
// of them may be at work.
func (p *partialImages) abort(group string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for volume, im := range p.images {
		if group == "" || im.group == group {
			delete(p.images, volume)
			errs = append(errs, im.into.Abort())
		}
	}
	return errors.Join(errs...)
}

// startImage begins a new store, or takes up the partial one of that position.
func (r *replica) startImage(ctx context.Context, m *replicationv1.ImageStart) error {
	if r.number != 0 {
		return fmt.Errorf("image starts in the middle of a stream: %w", ErrProtocol)
	}
	spec, err := decodeImageStart(m, r.hello.volume)
	if err != nil {
		return err
	}
	partial := r.images.of(spec.Volume)
	if m.GetFromOffset() > 0 {
		if partial == nil || partial.spec.At != spec.At || partial.spec.SizeBytes != spec.SizeBytes || partial.next != m.GetFromOffset() {
			return fmt.Errorf("image at %s goes on from %d, which is not what is here: %w", spec.At, m.GetFromOffset(), ErrProtocol)
		}
		r.image = partial
		return nil
	}
	if partial != nil {
		r.images.forget(spec.Volume)
		if err := partial.into.Abort(); err != nil {
			return fmt.Errorf("discard image at %s: %w", partial.spec.At, err)
		}
	}
	into, err := r.stores.Import(ctx, r.hello.group, spec)
	if err != nil {
		return fmt.Errorf("begin image of volume %s: %w", spec.Volume, err)
	}
	r.image = &partialImage{group: r.hello.group, spec: spec, into: into}
	r.images.put(r.image)
	return nil
}

func decodeImageStart(m *replicationv1.ImageStart, volume journal.VolumeID) (ImageSpec, error) {
	spec := ImageSpec{Volume: volume, SizeBytes: m.GetSizeBytes(), At: decodePosition(m.GetAt())}
	if err := checkVolumeBytes(spec.SizeBytes); err != nil {
		return ImageSpec{}, err
	}
	var err error
	if spec.Timelines, err = decodeTimelines(m.GetTimelines()); err != nil {
		return ImageSpec{}, err
	}
	leads := slices.ContainsFunc(spec.Timelines, func(t journal.Timeline) bool { return t.ID == spec.At.Timeline })
	if !leads || m.GetFromOffset() < 0 {
		return ImageSpec{}, fmt.Errorf("image at %s from %d: %w", spec.At, m.GetFromOffset(), ErrProtocol)
	}
	return spec, nil
}

func (r *replica) chunk(m *replicationv1.Chunk) error {
	if r.image == nil {
		return fmt.Errorf("chunk comes without an image: %w", ErrProtocol)
	}
	im, off, size := r.image, m.GetOffset(), m.GetRawBytes()
	if off < im.next || size > im.spec.SizeBytes-off || off%journal.SectorBytes != 0 || size%journal.SectorBytes != 0 {
		return fmt.Errorf("chunk of %d bytes at %d behind %d: %w", size, off, im.next, ErrProtocol)
	}
	data, err := r.codec.decodeChunk(m)
	if err != nil {
		return err
	}
	if err := im.into.WriteAt(data, off); err != nil {
		return r.dropImage(fmt.Errorf("write image at %d: %w", off, err))
	}
	im.next = off + size
	return nil
}

// endImage puts the new store in the old one's place.
func (r *replica) endImage(ctx context.Context) error {
	if r.image == nil {
		return fmt.Errorf("image ends that did not start: %w", ErrProtocol)
	}
	at, into := r.image.spec.At, r.image.into
	store, err := into.Commit(ctx)
	r.image = nil
	if !errors.Is(err, ErrInUse) { // else the next stream goes on with it
		r.images.forget(r.hello.volume)
	}
	if err != nil {
		return fmt.Errorf("complete image at %s: %w", at, err)
	}
	if tip := store.Tip(); tip != at {
		return fmt.Errorf("store filled at %s stands at %s: %w", at, tip, journal.ErrUnknownPosition)
	}
	r.store, r.ready, r.fresh = store, true, false
	return nil
}

// dropImage discards an image that could not be written to.
func (r *replica) dropImage(cause error) error {
	im := r.image
	r.image = nil
	r.images.forget(r.hello.volume)
	if err := im.into.Abort(); err != nil {
		return errors.Join(cause, fmt.Errorf("discard image: %w", err))
	}
	return cause
}

// dropPartial discards an image that an earlier stream began, once it turns out
// that none is needed.
func (r *replica) dropPartial() error {
	im := r.images.of(r.hello.volume)
	if im == nil {
		return nil
	}
	r.images.forget(r.hello.volume)
	if err := im.into.Abort(); err != nil {
		return fmt.Errorf("discard image at %s: %w", im.spec.At, err)
	}
	return nil
}
