package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// Adoption is a volume that exists without a CreateVolume call on this site: a
// replica of which this site has become the primary.
type Adoption struct {
	ID         journal.VolumeID
	Name       string
	SizeBytes  int64
	Group      string
	Settings   group.Settings
	BlockBytes int // 512 or 4096
	FSType     string
	// Topology is where the volume can be used; see Backend.
	Topology []map[string]string
	// Claim is NAMESPACE/NAME of the claim that it is for; empty: none.
	Claim string
}

// Adopt records a volume whose store the backend has already, so that callers
// can publish it here under the id that it has on every site. Idempotent; the
// record is durable on return. One that was deleted here while another site was its
// primary, and that a snapshot has kept the record of, is there again. ErrExists if
// the name or the id is taken by another volume, ErrBusy while it is being deleted.
func (s *Server) Adopt(ctx context.Context, a Adoption) error {
	if err := requireName("name", a.Name); err != nil {
		return err
	}
	_, err := run(ctx, s, []string{volumeKey(a.Name), groupKey(a.Group)}, func(context.Context) (struct{}, error) {
		return struct{}{}, s.cfg.Catalog.Update(func(tx *catalog.Tx) error { return adopt(tx, a) })
	})
	if err != nil {
		return fmt.Errorf("adopt volume %s: %w", a.ID, err)
	}
	return nil
}

// MayAdopt returns what Adopt would fail with now, and changes nothing.
func (s *Server) MayAdopt(a Adoption) error {
	for field, name := range map[string]string{"name": a.Name, "group": a.Group} {
		if err := requireName(field, name); err != nil {
			return err
		}
	}
	ok := errors.New("it may")
	err := s.cfg.Catalog.Update(func(tx *catalog.Tx) error {
		if err := adopt(tx, a); err != nil {
			return err
		}
		return ok // nothing is kept of a transaction that fails
	})
	if errors.Is(err, ok) {
		return nil
	}
	return fmt.Errorf("adopt volume %s: %w", a.ID, err)
}

func adopt(tx *catalog.Tx, a Adoption) error {
	old, err := tx.VolumeNamed(a.Name)
	switch {
	case err == nil && old.ID != a.ID:
		return fmt.Errorf("%w: the name belongs to volume %s", ErrExists, old.ID)
	case err != nil && !errors.Is(err, catalog.ErrNotFound):
		return err
	}
	v, err := tx.Volume(a.ID)
	switch {
	case errors.Is(err, catalog.ErrNotFound):
		v = catalog.Volume{ID: a.ID, Name: a.Name, State: catalog.StateReady, BlockBytes: a.BlockBytes, FSType: a.FSType}
	case err != nil:
		return err
	case v.Name == a.Name && (v.State == catalog.StateRetiring || v.State == catalog.StateDeleting):
		return fmt.Errorf("it is being deleted: %w", ErrBusy)
	case v.Name == a.Name && v.State == catalog.StateRetired:
		v.State = catalog.StateReady
	case v.State != catalog.StateReady || v.Name != a.Name:
		return fmt.Errorf("%w: the id belongs to volume %q in state %s", ErrExists, v.Name, v.State)
	}
	v.SizeBytes, v.Group, v.Topology, v.Claim, v.Unused = max(a.SizeBytes, v.SizeBytes), a.Group, a.Topology, a.Claim, false
	if _, err := tx.Group(a.Group); errors.Is(err, catalog.ErrNotFound) {
		if err := tx.PutGroup(catalog.Group{Name: a.Group, Settings: a.Settings}); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	return tx.PutVolume(v)
}
