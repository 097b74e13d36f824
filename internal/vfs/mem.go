package vfs

import (
	"io"
	"maps"
	"math"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// Mem is a file system in memory for simulations, strict about durability: it
// knows for every sector and every name what a power loss may leave of it
// (see Crash). Paths are rooted: "a/b" is "/a/b". The root directory exists.
//
// One lock orders all calls, so that a run with one goroutine is repeated
// exactly by the same calls and the same random source.
type Mem struct {
	mu      sync.Mutex // guards all that hangs off this value
	crashed bool       // never reset; nothing changes once it is set
	root    *memDir
	// unsynced are the directory operations that are not durable, oldest
	// first.
	unsynced []*nameOp
	// capacityBytes limits usedBytes: the sectors that live files have.
	capacityBytes, usedBytes int64
	// chance and the number of evictions decide what an eviction finds lost.
	chance, evictions uint64
}

var _ FS = (*Mem)(nil)

// NewMem returns an empty file system without a limit of capacity.
func NewMem() *Mem {
	return &Mem{root: newMemDir(), capacityBytes: math.MaxInt64}
}

// SetCapacity limits the space of all files together, in bytes, counted in
// sectors that were written or allocated. A limit below what is in use only
// prevents growth. Names and databases take no space.
func (m *Mem) SetCapacity(totalBytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacityBytes = totalBytes
}

// SetChance seeds what becomes of pages that a failed Sync gave up on: see
// Evict. Without it the seed is 0.
func (m *Mem) SetChance(seed uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.chance = seed
}

// Evict does to all files with a name what DropCache does to one, as a kernel
// that needs memory may at any time: clean pages are read from the disk again.
// Of what a failed Sync gave up on, some had reached the disk, and the rest is
// lost for good.
func (m *Mem) Evict() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.evictBelow(m.root)
}

func (m *Mem) evictBelow(d *memDir) {
	for _, name := range sortedNames(d.live) {
		switch n := d.live[name].(type) {
		case *memDir:
			m.evictBelow(n)
		case *memFile:
			m.evict(n)
		}
	}
}

// enter takes the lock; the caller releases it when err is nil.
func (m *Mem) enter(op, name string) error {
	m.mu.Lock()
	if m.crashed {
		m.mu.Unlock()
		return &opError{op: op, name: name, cause: ErrCrashed}
	}
	return nil
}

// Create implements FS. The name is durable after SyncDir.
func (m *Mem) Create(name string) (File, error) {
	if err := m.enter("create", name); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	dir, base, err := m.parent(name)
	if err != nil {
		return nil, wrap("create", name, err)
	}
	if dir.live[base] != nil {
		return nil, wrap("create", name, syscall.EEXIST)
	}
	f := newMemFile()
	m.apply(&nameOp{edits: []nameEdit{{dir, base, f}}})
	return m.handle(name, f, false), nil
}

// Open implements FS.
func (m *Mem) Open(name string) (File, error) { return m.openFile(name, false) }

// OpenReadOnly implements FS.
func (m *Mem) OpenReadOnly(name string) (File, error) { return m.openFile(name, true) }

func (m *Mem) openFile(name string, readOnly bool) (File, error) {
	if err := m.enter("open", name); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	n, err := m.lookup(name)
	if err != nil {
		return nil, wrap("open", name, err)
	}
	switch n := n.(type) {
	case *memFile:
		return m.handle(name, n, readOnly), nil
	case *memDir:
		return nil, wrap("open", name, syscall.EISDIR)
	default: // a database has no bytes to read here
		return nil, wrap("open", name, syscall.EINVAL)
	}
}

func (m *Mem) handle(name string, f *memFile, readOnly bool) *memHandle {
	f.handles++
	return &memHandle{m: m, f: f, name: name, readOnly: readOnly}
}

// Remove implements FS. A file that is open stays usable, and its space in
// use, until it is closed.
func (m *Mem) Remove(name string) error {
	if err := m.enter("remove", name); err != nil {
		return err
	}
	defer m.mu.Unlock()
	dir, base, err := m.parent(name)
	if err != nil {
		return wrap("remove", name, err)
	}
	return wrap("remove", name, m.removeEntry(dir, base))
}

func (m *Mem) removeEntry(dir *memDir, base string) error {
	n := dir.live[base]
	if n == nil {
		return syscall.ENOENT
	}
	op := &nameOp{edits: []nameEdit{{dir, base, nil}}}
	if d, ok := n.(*memDir); ok {
		if len(d.live) > 0 {
			return syscall.ENOTEMPTY
		}
		op.empties = d
	}
	m.apply(op)
	return nil
}

// RemoveAll implements FS. Every removal in the tree is an operation of its
// own: a crash may leave any part of it.
func (m *Mem) RemoveAll(name string) error {
	if err := m.enter("remove", name); err != nil {
		return err
	}
	defer m.mu.Unlock()
	dir, base, err := m.parent(name)
	if err == syscall.ENOENT || err == nil && dir.live[base] == nil {
		return nil
	}
	if err != nil {
		return wrap("remove", name, err)
	}
	return wrap("remove", name, m.removeTree(dir, base))
}

func (m *Mem) removeTree(dir *memDir, base string) error {
	if d, ok := dir.live[base].(*memDir); ok {
		for _, child := range sortedNames(d.live) {
			if err := m.removeTree(d, child); err != nil {
				return err
			}
		}
	}
	return m.removeEntry(dir, base)
}

// Rename implements FS. It is one operation: a crash leaves the old or the
// new name, also between two directories.
func (m *Mem) Rename(oldname, newname string) error {
	name := oldname + " to " + newname
	if err := m.enter("rename", name); err != nil {
		return err
	}
	defer m.mu.Unlock()
	fromDir, from, err := m.parent(oldname)
	if err != nil {
		return wrap("rename", name, err)
	}
	toDir, to, err := m.parent(newname)
	if err != nil {
		return wrap("rename", name, err)
	}
	moved := fromDir.live[from]
	if moved == nil {
		return wrap("rename", name, syscall.ENOENT)
	}
	if fromDir == toDir && from == to {
		return nil
	}
	op := &nameOp{edits: []nameEdit{{fromDir, from, nil}, {toDir, to, moved}}}
	if d, ok := moved.(*memDir); ok {
		if strings.HasPrefix(rooted(newname)+"/", rooted(oldname)+"/") {
			return wrap("rename", name, syscall.EINVAL)
		}
		op.empties, err = replaceableDir(toDir.live[to], d)
	} else if _, ok := toDir.live[to].(*memDir); ok {
		err = syscall.EISDIR
	}
	if err != nil {
		return wrap("rename", name, err)
	}
	m.apply(op)
	return nil
}

// Link implements FS.
func (m *Mem) Link(oldname, newname string) error {
	name := oldname + " to " + newname
	if err := m.enter("link", name); err != nil {
		return err
	}
	defer m.mu.Unlock()
	n, err := m.lookup(oldname)
	if err != nil {
		return wrap("link", name, err)
	}
	dir, base, err := m.parent(newname)
	if err != nil {
		return wrap("link", name, err)
	}
	if dir.live[base] != nil {
		return wrap("link", name, syscall.EEXIST)
	}
	if _, ok := n.(*memFile); !ok {
		return wrap("link", name, syscall.EPERM)
	}
	m.apply(&nameOp{edits: []nameEdit{{dir, base, n}}})
	return nil
}

// replaceableDir checks that a directory may move over target, and returns
// target if it is a directory too.
func replaceableDir(target memNode, moved *memDir) (*memDir, error) {
	switch target := target.(type) {
	case nil:
		return nil, nil
	case *memDir:
		if target != moved && len(target.live) > 0 {
			return nil, syscall.ENOTEMPTY
		}
		return target, nil
	default:
		return nil, syscall.ENOTDIR
	}
}

// MkdirAll implements FS. Each directory it makes is durable after SyncDir of
// the one above.
func (m *Mem) MkdirAll(name string) error {
	if err := m.enter("make directory", name); err != nil {
		return err
	}
	defer m.mu.Unlock()
	dir := m.root
	for _, part := range parts(name) {
		switch next := dir.live[part].(type) {
		case *memDir:
			dir = next
		case nil:
			made := newMemDir()
			m.apply(&nameOp{edits: []nameEdit{{dir, part, made}}})
			dir = made
		default:
			return wrap("make directory", name, syscall.ENOTDIR)
		}
	}
	return nil
}

// ReadDir implements FS.
func (m *Mem) ReadDir(name string) ([]string, error) {
	if err := m.enter("read directory", name); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	dir, err := m.lookupDir(name)
	if err != nil {
		return nil, wrap("read directory", name, err)
	}
	return sortedNames(dir.live), nil
}

// Stat implements FS. The size of a database is reported as zero.
func (m *Mem) Stat(name string) (int64, error) {
	if err := m.enter("stat", name); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	n, err := m.lookup(name)
	if err != nil {
		return 0, wrap("stat", name, err)
	}
	if f, ok := n.(*memFile); ok {
		return f.size, nil
	}
	return 0, nil
}

// SyncDir implements FS. It makes no more durable than it must: the
// directory's own names, and what those depend on.
func (m *Mem) SyncDir(name string) error {
	if err := m.enter("sync directory", name); err != nil {
		return err
	}
	defer m.mu.Unlock()
	dir, err := m.lookupDir(name)
	if err != nil {
		return wrap("sync directory", name, err)
	}
	m.commitNames(func(op *nameOp) bool { return op.changes(dir) })
	return nil
}

// Lock implements FS. KillClone and Crash release it.
func (m *Mem) Lock(name string) (io.Closer, error) {
	if err := m.enter("lock", name); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	dir, base, err := m.parent(name)
	if err != nil {
		return nil, wrap("lock", name, err)
	}
	if dir.live[base] == nil {
		m.apply(&nameOp{edits: []nameEdit{{dir, base, newMemFile()}}})
	}
	f, ok := dir.live[base].(*memFile)
	if !ok {
		return nil, wrap("lock", name, syscall.EISDIR)
	}
	if f.locked {
		return nil, wrap("lock", name, syscall.EWOULDBLOCK)
	}
	f.locked = true
	return &memLock{m: m, f: f, name: name}, nil
}

type memLock struct {
	m      *Mem
	f      *memFile
	name   string
	closed bool // guarded by m.mu
}

// Close lets go of the lock.
func (l *memLock) Close() error {
	if err := l.m.enter("unlock", l.name); err != nil {
		return err
	}
	defer l.m.mu.Unlock()
	if l.closed {
		return &opError{op: "unlock", name: l.name, cause: ErrClosed}
	}
	l.closed, l.f.locked = true, false
	return nil
}

// Space implements FS. Without a limit it reports the largest int64.
func (m *Mem) Space(name string) (totalBytes, freeBytes int64, err error) {
	if err := m.enter("read free space of", name); err != nil {
		return 0, 0, err
	}
	defer m.mu.Unlock()
	if _, err := m.lookup(name); err != nil {
		return 0, 0, wrap("read free space of", name, err)
	}
	return m.capacityBytes, max(0, m.capacityBytes-m.usedBytes), nil
}

// OpenDB implements FS with a kv.Memory. A database survives a crash in its
// last committed state; its name is durable once it is made, as long as its
// directory is.
func (m *Mem) OpenDB(name string) (kv.DB, error) {
	if err := m.enter("open database", name); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	dir, base, err := m.parent(name)
	if err != nil {
		return nil, wrap("open database", name, err)
	}
	if dir.live[base] == nil {
		made := &nameOp{edits: []nameEdit{{dir, base, &memDB{state: kv.NewMemory()}}}}
		m.apply(made)
		m.commitNames(func(op *nameOp) bool { return op == made })
	}
	db, ok := dir.live[base].(*memDB)
	if !ok {
		return nil, wrap("open database", name, syscall.EINVAL)
	}
	if db.opened {
		return nil, &opError{op: "open database", name: name, sentinel: ErrLocked, cause: kv.ErrLocked}
	}
	return m.openMemDB(name, db), nil
}

// rooted is the one spelling of a path.
func rooted(name string) string { return path.Clean("/" + name) }

// parts splits a path; the root has none.
func parts(name string) []string {
	clean := rooted(name)
	if clean == "/" {
		return nil
	}
	return strings.Split(clean[1:], "/")
}

func sortedNames(nodes map[string]memNode) []string {
	return slices.Sorted(maps.Keys(nodes))
}
