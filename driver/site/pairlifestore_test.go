package site_test

import (
	"encoding/json"
	"errors"
	"path"
	"time"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

// verify reads the stores that a site which is down knows of, as `lockstep journal verify`
// does. What else is there was being made, or removed.
func (l *life) verify(s *lifeSite) {
	l.t.Helper()
	for _, dir := range l.storesOf(s) {
		report, err := journal.Verify(l.ctx, journal.Config{FS: s.disk, Dir: dir})
		if err != nil && !errors.Is(err, journal.ErrNotStore) || err == nil && !report.OK() {
			l.fatalf("store %s of site %s: %v, damage %+v", dir, s.name, err, report.Damage)
		}
		if err == nil {
			l.counts["stores verified"]++
		}
	}
}

// storesOf are the directories of the stores that a site's database names.
func (l *life) storesOf(s *lifeSite) (dirs []string) {
	l.t.Helper()
	db, err := s.disk.OpenDB("/root/site.db")
	if err != nil {
		l.fatalf("open the database of site %s: %v", s.name, err)
	}
	err = db.View(func(tx kv.Tx) error {
		tx.Range("volumes", nil, func(_, value []byte) bool {
			var r struct {
				ID    journal.VolumeID
				Store string
			}
			if err = json.Unmarshal(value, &r); r.Store != "" {
				dirs = append(dirs, path.Join("/root/volumes", r.ID.String(), r.Store))
			}
			return err == nil
		})
		tx.Range("forks", nil, func(_, value []byte) bool {
			var r struct {
				Name     string
				State    site.ForkState
				Overlays map[journal.VolumeID]journal.VolumeID
			}
			err = errors.Join(err, json.Unmarshal(value, &r))
			for id := range r.Overlays {
				if r.State == site.ForkOpen || r.State == site.ForkCommitting {
					dirs = append(dirs, path.Join("/root/forks", r.Name, id.String()))
				}
			}
			return err == nil
		})
		return err
	})
	if err = errors.Join(err, db.Close()); err != nil {
		l.fatalf("read the database of site %s: %v", s.name, err)
	}
	return dirs
}

// modify gives the group other settings: how long history is kept, in which room, and how
// often there is a point that nobody has asked for.
func (l *life) modify() {
	s := l.main()
	settings := quiet()
	settings.ReplicateTo = s.peer
	settings.JournalBytes = int64(2+l.rng.IntN(6)) * journal.MinSegmentBytes
	settings.CheckpointInterval = []time.Duration{time.Hour, 100 * time.Millisecond, 300 * time.Millisecond}[l.rng.IntN(3)]
	settings.History, settings.Window = "", []time.Duration{time.Hour, time.Second, 24 * time.Hour}[l.rng.IntN(3)]
	settings.Window = max(settings.Window, settings.CheckpointInterval)
	l.keeps, l.kept = nil, nil
	if err := s.opened.Groups().Modify(l.ctx, "shop", settings); err != nil {
		l.failed(s, "modify", err)
		return
	}
	l.logf("the settings are %+v", settings)
	l.counts["modifications"]++
}
