package vfs

import "github.com/lockstep-csi/lockstep/internal/kv"

// memDB is a database of a Mem. state is the one that is open or, when none
// is, the last that was; guarded by the lock of its Mem.
type memDB struct {
	state  *kv.Memory
	opened bool
}

// openMemDB opens a database. A commit is refused once the file system has
// crashed, and one that a crash overtook is not acknowledged: Crash may have
// looked at the state just before it.
func (m *Mem) openMemDB(name string, db *memDB) *memDBHandle {
	h := &memDBHandle{m: m, db: db, name: name, Memory: db.state.Clone()}
	h.SetHooks(kv.Hooks{BeforeCommit: h.alive, AfterCommit: h.alive})
	db.state, db.opened = h.Memory, true
	return h
}

// memDBHandle is a database while it is open.
type memDBHandle struct {
	*kv.Memory
	m    *Mem
	db   *memDB
	name string
}

func (h *memDBHandle) alive() error {
	if err := h.m.enter("use database", h.name); err != nil {
		return err
	}
	h.m.mu.Unlock()
	return nil
}

// View implements kv.DB.
func (h *memDBHandle) View(fn func(kv.Tx) error) error {
	if err := h.alive(); err != nil {
		return err
	}
	return h.Memory.View(fn)
}

// Close implements kv.DB.
func (h *memDBHandle) Close() error {
	if err := h.alive(); err != nil {
		return err
	}
	// First the database, which waits for its last commit; that one needs the
	// lock of the file system.
	if err := h.Memory.Close(); err != nil {
		return err
	}
	if err := h.m.enter("close database", h.name); err != nil {
		return err
	}
	defer h.m.mu.Unlock()
	if h.db.state == h.Memory { // and not one that was opened after it
		h.db.opened = false
	}
	return nil
}
