package vfs

import (
	"io"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

var _ FS = (*Fault)(nil)

// Create implements FS.
func (f *Fault) Create(name string) (file File, err error) {
	err = f.begin(OpCreate, "%s", name).run(OpCreate, name, func() (err error) {
		file, err = f.inner.Create(name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &faultFile{fault: f, inner: file, name: name}, nil
}

// Open implements FS.
func (f *Fault) Open(name string) (File, error) { return f.open(name, f.inner.Open) }

// OpenReadOnly implements FS.
func (f *Fault) OpenReadOnly(name string) (File, error) { return f.open(name, f.inner.OpenReadOnly) }

func (f *Fault) open(name string, open func(string) (File, error)) (File, error) {
	if err := f.alive(); err != nil {
		return nil, wrap("open", name, err)
	}
	file, err := open(name)
	if err != nil {
		return nil, err
	}
	return &faultFile{fault: f, inner: file, name: name}, nil
}

// Remove implements FS.
func (f *Fault) Remove(name string) error {
	return f.begin(OpRemove, "%s", name).run(OpRemove, name, func() error { return f.inner.Remove(name) })
}

// RemoveAll implements FS.
func (f *Fault) RemoveAll(name string) error {
	return f.begin(OpRemove, "all of %s", name).run(OpRemove, name, func() error { return f.inner.RemoveAll(name) })
}

// Rename implements FS.
func (f *Fault) Rename(oldname, newname string) error {
	v := f.begin(OpRename, "%s to %s", oldname, newname)
	return v.run(OpRename, oldname, func() error { return f.inner.Rename(oldname, newname) })
}

// Link implements FS.
func (f *Fault) Link(oldname, newname string) error {
	v := f.begin(OpLink, "%s to %s", oldname, newname)
	return v.run(OpLink, oldname, func() error { return f.inner.Link(oldname, newname) })
}

// MkdirAll implements FS.
func (f *Fault) MkdirAll(name string) error {
	return f.begin(OpMkdir, "%s", name).run(OpMkdir, name, func() error { return f.inner.MkdirAll(name) })
}

// ReadDir implements FS.
func (f *Fault) ReadDir(name string) ([]string, error) {
	if err := f.alive(); err != nil {
		return nil, wrap("read directory", name, err)
	}
	return f.inner.ReadDir(name)
}

// Stat implements FS.
func (f *Fault) Stat(name string) (int64, error) {
	if err := f.alive(); err != nil {
		return 0, wrap("stat", name, err)
	}
	return f.inner.Stat(name)
}

// SyncDir implements FS.
func (f *Fault) SyncDir(name string) error {
	return f.begin(OpSyncDir, "%s", name).run(OpSyncDir, name, func() error { return f.inner.SyncDir(name) })
}

// Lock implements FS. After a crash the lock stays with the file system
// below, whose own crash releases it.
func (f *Fault) Lock(name string) (io.Closer, error) {
	if err := f.alive(); err != nil {
		return nil, wrap("lock", name, err)
	}
	lock, err := f.inner.Lock(name)
	if err != nil {
		return nil, err
	}
	return &faultLock{f, lock, name}, nil
}

type faultLock struct {
	fault *Fault
	inner io.Closer
	name  string
}

// Close lets go of the lock.
func (l *faultLock) Close() error {
	if err := l.fault.alive(); err != nil {
		return wrap("unlock", l.name, err)
	}
	return l.inner.Close()
}

// Space implements FS.
func (f *Fault) Space(name string) (totalBytes, freeBytes int64, err error) {
	if err := f.alive(); err != nil {
		return 0, 0, wrap("read free space of", name, err)
	}
	return f.inner.Space(name)
}

// OpenDB implements FS. Making a database is not counted.
func (f *Fault) OpenDB(name string) (kv.DB, error) {
	if err := f.alive(); err != nil {
		return nil, wrap("open database", name, err)
	}
	db, err := f.inner.OpenDB(name)
	if err != nil {
		return nil, err
	}
	return &faultDB{f, db, name}, nil
}

type faultDB struct {
	fault *Fault
	inner kv.DB
	name  string
}

// View implements kv.DB.
func (d *faultDB) View(fn func(kv.Tx) error) error {
	if err := d.fault.alive(); err != nil {
		return wrap("view", d.name, err)
	}
	return d.inner.View(fn)
}

// Update implements kv.DB. The commit is the counted operation: fn has run
// when it fails.
func (d *faultDB) Update(fn func(kv.Tx) error) error {
	if err := d.fault.alive(); err != nil {
		return wrap("update", d.name, err)
	}
	var afterwards error // of a crash that comes after the commit
	err := d.inner.Update(func(tx kv.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		v := d.fault.begin(OpCommit, "%s", d.name)
		err := wrap(OpCommit.String(), d.name, v.err)
		if v.part >= 0.5 {
			afterwards, err = err, nil
		}
		return err
	})
	if err != nil {
		return err
	}
	return afterwards
}

// Close implements kv.DB.
func (d *faultDB) Close() error {
	if err := d.fault.alive(); err != nil {
		return wrap("close", d.name, err)
	}
	return d.inner.Close()
}
