package enginepod_test

import (
	"testing"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// A volume that is to be larger than its store grows as soon as its orders admit changes,
// which those may be that an engine begins with: of one that was killed before it had
// carried them out, or that was a replica's, whose records did not arrive any more.
func TestAVolumeGrowsWithTheFirstOrdersThatAdmitChanges(t *testing.T) {
	for name, before := range map[string]func(r *rig){
		"its group stops changes": func(r *rig) {
			o := r.primary(1, 2)
			o.Writable, o.SizeBytes = false, 2*volumeBytes
			if s := r.order(o); s.Store.SizeBytes != volumeBytes {
				r.t.Errorf("a volume that admits no changes has %d bytes", s.Store.SizeBytes)
			}
		},
		"it was a replica": func(r *rig) {
			o := r.primary(1, 2)
			o.Role, o.Writable, o.SizeBytes = control.Replica, false, 0
			r.order(o)
		},
		"its engine is killed before it has grown": func(r *rig) {
			r.stop()
			killed := make(chan *vfs.Mem, 1)
			r.files = &atCommit{FS: r.fs, name: "/backing/engine.db", first: func() { killed <- r.fs.KillClone() }}
			r.start()
			r.resumed(1)
			o := r.primary(1, 2)
			o.SizeBytes = 2 * volumeBytes
			r.order(o)
			r.stop()
			r.fs, r.files = <-killed, nil
			r.start()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, newNetwork(), 1)
			r.order(r.primary(1, 1))
			before(r)
			o := r.primary(2, 3)
			o.SizeBytes = 2 * volumeBytes
			if s := r.order(o); s.Store.SizeBytes != o.SizeBytes {
				t.Errorf("the volume has %d bytes, want %d", s.Store.SizeBytes, o.SizeBytes)
			}
			write(t, r.engine(), o.SizeBytes-512, 1)
		})
	}
}

// atCommit is a file system that tells of the first commit of a database.
type atCommit struct {
	vfs.FS
	name  string
	first func() // called once, when it is durable
}

func (f *atCommit) OpenDB(name string) (kv.DB, error) {
	db, err := f.FS.OpenDB(name)
	if err != nil || name != f.name {
		return db, err
	}
	return &committing{db, f}, nil
}

type committing struct {
	kv.DB
	of *atCommit
}

func (c *committing) Update(fn func(kv.Tx) error) error {
	err := c.DB.Update(fn)
	if err == nil && c.of.first != nil {
		c.of.first()
		c.of.first = nil
	}
	return err
}
