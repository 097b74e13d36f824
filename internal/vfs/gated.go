package vfs

import (
	"fmt"
	"io"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// Gated is a file system that changes nothing without permission: each call
// that would change a file, a name or a database first asks Pass, which waits
// until the permission is there, and fails for good with ErrRefused and its error.
// Reads go through. It is for a process that may only write while it holds a lease.
//
// A call that was let pass is not taken back; whoever gives permission leaves
// room for it.
type Gated struct {
	FS
	// Pass returns when a change may be made. It may be called concurrently,
	// and costs little while the permission is there.
	Pass func() error
}

var _ FS = Gated{}

// pass is Pass, whose error says that nothing was tried.
func (g Gated) pass() error {
	if err := g.Pass(); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil
}

// Create implements FS.
func (g Gated) Create(name string) (File, error) {
	if err := g.pass(); err != nil {
		return nil, err
	}
	return g.file(g.FS.Create(name))
}

// Open implements FS.
func (g Gated) Open(name string) (File, error) { return g.file(g.FS.Open(name)) }

func (g Gated) file(f File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return gatedFile{f, g.pass}, nil
}

// Remove implements FS.
func (g Gated) Remove(name string) error {
	if err := g.pass(); err != nil {
		return err
	}
	return g.FS.Remove(name)
}

// RemoveAll implements FS.
func (g Gated) RemoveAll(name string) error {
	if err := g.pass(); err != nil {
		return err
	}
	return g.FS.RemoveAll(name)
}

// Rename implements FS.
func (g Gated) Rename(oldname, newname string) error {
	if err := g.pass(); err != nil {
		return err
	}
	return g.FS.Rename(oldname, newname)
}

// Link implements FS.
func (g Gated) Link(oldname, newname string) error {
	if err := g.pass(); err != nil {
		return err
	}
	return g.FS.Link(oldname, newname)
}

// MkdirAll implements FS.
func (g Gated) MkdirAll(name string) error {
	if err := g.pass(); err != nil {
		return err
	}
	return g.FS.MkdirAll(name)
}

// Lock implements FS: the lock's file may have to be made.
func (g Gated) Lock(name string) (io.Closer, error) {
	if err := g.pass(); err != nil {
		return nil, err
	}
	return g.FS.Lock(name)
}

// OpenDB implements FS.
func (g Gated) OpenDB(name string) (kv.DB, error) {
	if err := g.pass(); err != nil {
		return nil, err
	}
	db, err := g.FS.OpenDB(name)
	if err != nil {
		return nil, err
	}
	return gatedDB{db, g.pass}, nil
}

// gatedFile is an open file of a Gated.
type gatedFile struct {
	File
	pass func() error
}

func (f gatedFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.pass(); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f gatedFile) WriteVecAt(bufs [][]byte, off int64) (int, error) {
	if err := f.pass(); err != nil {
		return 0, err
	}
	return f.File.WriteVecAt(bufs, off)
}

func (f gatedFile) StreamVecAt(bufs [][]byte, off int64) (int, error) {
	if err := f.pass(); err != nil {
		return 0, err
	}
	return f.File.StreamVecAt(bufs, off)
}

func (f gatedFile) WriteDirectAt(p []byte, off int64) (int, error) {
	if err := f.pass(); err != nil {
		return 0, err
	}
	return f.File.WriteDirectAt(p, off)
}

// Sync makes earlier writes durable, and may not do that late either: what it
// writes back could be newer than what another process has written since.
func (f gatedFile) Sync() error {
	if err := f.pass(); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f gatedFile) Truncate(sizeBytes int64) error {
	if err := f.pass(); err != nil {
		return err
	}
	return f.File.Truncate(sizeBytes)
}

func (f gatedFile) Allocate(off, length int64) error {
	if err := f.pass(); err != nil {
		return err
	}
	return f.File.Allocate(off, length)
}

func (f gatedFile) PunchHole(off, length int64) error {
	if err := f.pass(); err != nil {
		return err
	}
	return f.File.PunchHole(off, length)
}

// gatedDB is an open database of a Gated.
type gatedDB struct {
	kv.DB
	pass func() error
}

func (d gatedDB) Update(fn func(kv.Tx) error) error {
	if err := d.pass(); err != nil {
		return err
	}
	return d.DB.Update(fn)
}
