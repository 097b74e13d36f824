package driver

import (
	"context"
	"errors"
	"time"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// engineBlockBytes is the logical block size of adopted volumes: what was
// written through any other works on it.
const engineBlockBytes = 512

// adopt makes the volumes of a group that this site has become primary for
// known to CSI, under the ids that they have on every site. One that cannot be
// keeps none of the others from it.
func (s *standalone) adopt(ctx context.Context, name string) error {
	st, err := s.site.Groups().State(name)
	if err != nil {
		return err
	}
	var failed []error
	for _, id := range st.Members {
		failed = append(failed, s.adoptMember(ctx, &st, id))
	}
	return errors.Join(failed...)
}

func (s *standalone) adoptMember(ctx context.Context, st *group.State, id journal.VolumeID) error {
	v, err := s.site.Volume(id)
	if err != nil {
		return err
	}
	if errors.Is(v.DeviceErr, groups.ErrAbsent) {
		return nil // there is nothing to be published of it
	}
	return s.controller.Adopt(ctx, controller.Adoption{
		ID: id, Name: v.Name, SizeBytes: v.SizeBytes, Group: st.Name, Settings: st.Settings, BlockBytes: engineBlockBytes,
	})
}

// tellPause is the time between two looks at what CSI does not know.
const tellPause = 10 * time.Second

// tellCSI makes known to CSI what this site has become the primary of without anybody who
// waited for it, until ctx ends: a failover that could not be finished at once is finished
// later, also when a member's store is reopened.
func (s *standalone) tellCSI(ctx context.Context) {
	told := ""
	for {
		timer := time.NewTimer(tellPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		text := ""
		if err := s.adoptUnknown(ctx); err != nil {
			text = err.Error()
		}
		if text != "" && text != told && ctx.Err() == nil {
			s.cfg.Log.Error("some volumes of this site are not known to CSI: they cannot be published; it is tried again", "error", text)
		}
		told = text
	}
}

// adoptUnknown adopts what this site is the primary of and CSI does not know: a failover
// was interrupted before it was told, or could not be, or CSI's catalog was lost. Call it
// behind Reconcile, which removes what was to be deleted. What is made or deleted meanwhile
// CSI knows for longer than the group has it.
func (s *standalone) adoptUnknown(ctx context.Context) error {
	var failed []error
	for _, st := range s.site.Groups().States() {
		if st.Role != group.RolePrimary {
			continue
		}
		for _, id := range st.Members {
			err := catalog.New(s.catalog).View(func(tx *catalog.Tx) error {
				_, err := tx.Volume(id)
				return err
			})
			if errors.Is(err, catalog.ErrNotFound) {
				err = s.adoptMember(ctx, &st, id)
			}
			if errors.Is(err, site.ErrNotFound) {
				err = nil // it was deleted meanwhile
			}
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}
