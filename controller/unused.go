package controller

import (
	"context"
	"fmt"

	"github.com/lockstep-csi/lockstep/controller/catalog"
)

// Unused is a volume that was made for a claim and has never been published.
type Unused struct {
	ID    string
	Name  string // of the CreateVolume request
	Claim string // NAMESPACE/NAME
	// Copy: it was made from another one and holds that one's content; else it
	// is blank.
	Copy bool
}

// Unused returns the volumes that are ready and have never been used, by id. Each is one that a
// claim is just about to get, or one whose claim was deleted while nobody could be
// told that it was ready: who makes volumes for claims forgets, when its process
// ends, what it had asked for.
func (s *Server) Unused() ([]Unused, error) {
	var unused []Unused
	err := s.cfg.Catalog.View(func(tx *catalog.Tx) error {
		return tx.EachVolume("", func(v catalog.Volume) bool {
			if isUnused(&v) {
				unused = append(unused, Unused{ID: v.ID.String(), Name: v.Name, Claim: v.Claim, Copy: v.Source != nil})
			}
			return true
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list unused volumes: %w", err)
	}
	return unused, nil
}

func isUnused(v *catalog.Volume) bool {
	return v.State == catalog.StateReady && v.Unused && v.Claim != ""
}

// DeleteUnused deletes a blank volume as DeleteVolume does, if nobody has used it
// since; no error if somebody has, or if it is a copy or not there.
func (s *Server) DeleteUnused(ctx context.Context, id string) error {
	v, found, err := s.findVolume(id)
	if err != nil || !found {
		return err
	}
	_, err = run(ctx, s, []string{volumeKey(v.Name)}, func(ctx context.Context) (*struct{}, error) {
		v, found, err := s.findVolume(id)
		if err != nil || !found || !isUnused(&v) || v.Source != nil {
			return nil, err
		}
		return nil, s.removeVolume(ctx, v)
	})
	if err != nil {
		return fmt.Errorf("delete unused volume %s: %w", id, err)
	}
	return nil
}
