package objectdb

import (
	"context"
	"fmt"
	"sync"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// DB is an open database. Its methods may be called concurrently.
type DB struct {
	config Config
	memory *kv.Memory // what is committed
	// life ends when Close gives up what an Update still waits for.
	life context.Context
	end  context.CancelFunc

	writer sync.Mutex // orders Update, repairs and Close; guards the fields below
	// commit is the commit in force, version its object's resourceVersion.
	commit  commit
	version string
	slots   []slot
	index   map[string]int // slot of a bucket and key
	// doubt is the commit whose fate is not known; it poisons the database. doubted
	// is closed then.
	doubt   error
	doubted chan struct{}

	mu     sync.Mutex // guards closed; taken with writer held, too
	closed error      // why nothing is served any more; nil while open
}

// slot is what is known of an entry's object.
type slot struct {
	bucket, key string // empty: the slot is free
	sequence    uint64 // of the commit that wrote it last
	// version is the object's resourceVersion; empty when it has to be read
	// before it is written.
	version string
	// absent: no object was made yet, as far as is known.
	absent bool
	// dirty: the object has still to be written.
	dirty bool
}

var _ kv.DB = (*DB)(nil)

// View implements kv.DB on memory. ErrFenced once the database was taken over.
func (db *DB) View(fn func(kv.Tx) error) error {
	if err := db.refusal(); err != nil {
		return fmt.Errorf("view of database %s: %w", db.config.Name, err)
	}
	return db.memory.View(fn)
}

// Update implements kv.DB. It returns nil when the commit is written; its
// entries may follow in a later Update. While the API server does not say
// whether it carried a commit out, Update waits, for Config.Patience at most
// or until Close. After that the database is poisoned (kv.ErrPoisoned), and Run ends.
//
// ErrFenced closes the database for good. After any other error nothing was
// changed, and the database can be used.
func (db *DB) Update(fn func(kv.Tx) error) error {
	db.writer.Lock()
	defer db.writer.Unlock()
	if err := db.usable(); err != nil {
		return fmt.Errorf("update of database %s: %w", db.config.Name, err)
	}
	if err := db.memory.Update(func(tx kv.Tx) error { return db.transact(tx, fn) }); err != nil {
		return err
	}
	// What is committed is durable. Entries that could not be written now are
	// before the next commit.
	if err := db.writeEntries(db.life); err != nil {
		db.config.Log.Warn("catalog entries lag behind their commit", "database", db.config.Name, "error", err)
	}
	return nil
}

// usable says why no commit can be made. Called with writer held.
func (db *DB) usable() error {
	if err := db.refusal(); err != nil {
		return err
	}
	if db.doubt != nil {
		return fmt.Errorf("%w: %w", kv.ErrPoisoned, db.doubt)
	}
	return nil
}

func (db *DB) refusal() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.closed
}

// refuse ends the service. The first reason counts.
func (db *DB) refuse(reason error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed == nil {
		db.closed = reason
	}
}

// transact runs fn and commits what it changed, if anything.
func (db *DB) transact(tx kv.Tx, fn func(kv.Tx) error) error {
	recorder := &recorder{Tx: tx, before: map[string]entry{}}
	if err := fn(recorder); err != nil {
		return err
	}
	entries := recorder.changed()
	if len(entries) == 0 {
		return nil
	}
	// The commit is the only record of its changes until they are in the
	// entries, and the next one takes its place.
	if err := db.writeEntries(db.life); err != nil {
		return fmt.Errorf("finish last commit of database %s: %w", db.config.Name, err)
	}
	next := db.plan(entries)
	if err := db.writeCommit(next); err != nil {
		return fmt.Errorf("commit to database %s: %w", db.config.Name, err)
	}
	db.adopt(next)
	return nil
}

// plan gives changed keys their slots: those that they have, then free ones,
// then new ones.
func (db *DB) plan(entries []entry) commit {
	next := commit{
		owner: db.commit.owner, writer: db.commit.owner,
		sequence: db.commit.sequence + 1, slots: len(db.slots),
	}
	free := db.freeSlots()
	for _, e := range entries {
		i, has := db.index[indexKey(e.bucket, e.key)]
		switch {
		case e.value == nil && !has:
			continue
		case e.value == nil:
			e = entry{}
		case !has && len(free) > 0:
			i, free = free[0], free[1:]
		case !has:
			i = next.slots
			next.slots++
		}
		next.changes = append(next.changes, change{slot: i, entry: e})
	}
	return next
}

func (db *DB) freeSlots() []int {
	var free []int
	for i, s := range db.slots {
		if s.bucket == "" {
			free = append(free, i)
		}
	}
	return free
}

// adopt takes a written commit for the one in force.
func (db *DB) adopt(c commit) {
	db.commit = c
	for len(db.slots) < c.slots {
		db.slots = append(db.slots, slot{absent: true})
	}
	for _, ch := range c.changes {
		s := &db.slots[ch.slot]
		if s.bucket != "" {
			delete(db.index, indexKey(s.bucket, s.key))
		}
		s.bucket, s.key, s.sequence, s.dirty = ch.bucket, ch.key, c.sequence, true
	}
	for _, ch := range c.changes {
		if !ch.free() {
			db.index[indexKey(ch.bucket, ch.key)] = ch.slot
		}
	}
}

// indexKey is unique: a bucket's length is a part of it.
func indexKey(bucket, key string) string { return fmt.Sprintf("%d/%s%s", len(bucket), bucket, key) }

// Close implements kv.DB. It ends an Update that waits for the API server; the
// objects stay, and so does this process's name in them.
func (db *DB) Close() error {
	db.refuse(kv.ErrClosed)
	db.end()
	db.writer.Lock()
	defer db.writer.Unlock()
	return db.memory.Close()
}
