package kv

import (
	"maps"
	"slices"
	"sync"

	"github.com/tidwall/btree"
)

// Hooks observe the commits of a Memory. Each may be nil, and is called while
// the Update runs: it must not call Update, SetHooks or Close.
type Hooks struct {
	// BeforeCommit runs when Update's function has returned nil. If it fails
	// the commit does not happen and Update returns the error: a crash before
	// the commit, or a disk that refuses it.
	BeforeCommit func() error
	// AfterCommit runs when the changes are committed. If it fails Update
	// returns the error although the changes stay: a crash after the commit.
	AfterCommit func() error
}

// Memory is a DB without a file. What Update committed stays in the value
// after Close, as it would on a disk; Clone opens it again.
//
// Its state is immutable: an Update works on a copy that shares what it does
// not change, and publishes it in one step, so that a View needs no lock.
type Memory struct {
	writer sync.Mutex // orders Update, SetHooks and Close; guards hooks
	hooks  Hooks

	mu    sync.RWMutex // guards the fields below; changed with writer held too
	state buckets
	open  bool
}

type buckets map[string]*bucket

// bucket maps keys to values. One that was published is never written to,
// but transactions of several clones may copy it at a time.
type bucket struct {
	copying sync.Mutex // copying a tree marks the original
	tree    *btree.Map[string, []byte]
}

// copy takes constant time: the trees share what neither changes.
func (b *bucket) copy() *bucket {
	b.copying.Lock()
	defer b.copying.Unlock()
	return &bucket{tree: b.tree.Copy()}
}

var _ DB = (*Memory)(nil)

// NewMemory returns an empty, open database.
func NewMemory() *Memory { return &Memory{open: true, state: buckets{}} }

// SetHooks replaces the hooks for the commits after it. It waits for an
// Update that is running.
func (m *Memory) SetHooks(h Hooks) {
	m.writer.Lock()
	defer m.writer.Unlock()
	m.hooks = h
}

// Clone returns an open database of its own with what is committed in m, be m
// closed or not, and without hooks. It does not wait for an Update.
func (m *Memory) Clone() *Memory {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return &Memory{open: true, state: m.state}
}

// View implements DB.
func (m *Memory) View(fn func(Tx) error) error {
	m.mu.RLock()
	state, open := m.state, m.open
	m.mu.RUnlock()
	if !open {
		return ErrClosed
	}
	return fn(&memoryTx{state: state})
}

// Update implements DB. The error of a hook is returned as it is.
func (m *Memory) Update(fn func(Tx) error) error {
	m.writer.Lock()
	defer m.writer.Unlock()
	if !m.open {
		return ErrClosed
	}
	tx := &memoryTx{state: maps.Clone(m.state), own: map[string]bool{}}
	if err := fn(tx); err != nil {
		return err
	}
	if m.hooks.BeforeCommit != nil {
		if err := m.hooks.BeforeCommit(); err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.state = tx.state
	m.mu.Unlock()
	if m.hooks.AfterCommit != nil {
		return m.hooks.AfterCommit()
	}
	return nil
}

// Close implements DB. It waits for an Update that is running; a View that is
// running ends undisturbed. The committed state stays.
func (m *Memory) Close() error {
	m.writer.Lock()
	defer m.writer.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open = false
	return nil
}

// memoryTx is a transaction on a snapshot. In an Update, own names the
// buckets that were copied and may be changed; in a View it is nil.
type memoryTx struct {
	state buckets
	own   map[string]bool
}

func (t *memoryTx) Get(bucket string, key []byte) []byte {
	b := t.state[bucket]
	if b == nil {
		return nil
	}
	value, _ := b.tree.Get(string(key))
	return value
}

func (t *memoryTx) Put(bucket string, key, value []byte) error {
	if t.own == nil {
		return ErrReadOnly
	}
	if err := checkKey(bucket, key); err != nil {
		return err
	}
	// The copy is never nil, so that an empty value is told from no value.
	t.writable(bucket).Set(string(key), append([]byte{}, value...))
	return nil
}

func (t *memoryTx) Delete(bucket string, key []byte) error {
	if t.own == nil {
		return ErrReadOnly
	}
	if t.state[bucket] == nil {
		return nil
	}
	t.writable(bucket).Delete(string(key))
	return nil
}

// writable returns the bucket after making it this transaction's own.
func (t *memoryTx) writable(name string) *btree.Map[string, []byte] {
	b := t.state[name]
	switch {
	case b == nil:
		b = &bucket{tree: new(btree.Map[string, []byte])}
	case !t.own[name]:
		b = b.copy()
	}
	t.state[name], t.own[name] = b, true
	return b.tree
}

func (t *memoryTx) Range(bucket string, from []byte, fn func(key, value []byte) bool) {
	b := t.state[bucket]
	if b == nil {
		return
	}
	b.tree.Ascend(string(from), func(key string, value []byte) bool {
		return fn([]byte(key), value)
	})
}

func (t *memoryTx) Buckets() []string { return slices.Sorted(maps.Keys(t.state)) }
