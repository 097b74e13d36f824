package vfs

import (
	"math/rand/v2"
	"syscall"
)

// CrashOptions are the two certain outcomes of a power loss. At most one may
// be set; without either, chance decides.
type CrashOptions struct {
	// KeepAll: all that was written and every name survives.
	KeepAll bool
	// LoseAll: only what was synced survives.
	LoseAll bool
}

// coin returns the function that decides what survives. Its bias is itself
// random: with a fair coin a long list of changes would never be lost or kept
// as a whole, or but for one.
func (o CrashOptions) coin(rng *rand.Rand) func() bool {
	switch {
	case o.KeepAll:
		return func() bool { return true }
	case o.LoseAll:
		return func() bool { return false }
	}
	biases := []float64{0, 0.1, 0.5, 0.9, 1}
	bias := biases[rng.IntN(len(biases))]
	return func() bool { return rng.Float64() < bias }
}

// Crash cuts the power and returns the file system as it is when the power is
// back. In it each thing that was not synced is there or not, as rng decides:
// every sector that was written, allocated or punched, every size, every
// directory operation; a truncation and an allocation wholly or not at all;
// operations on the same name in their order. Databases are in their last
// committed state. All is then durable, and nothing is locked.
//
// Every later call on m and its files fails with ErrCrashed, except Crash:
// called again it returns another outcome of the same power loss. The same
// history and the same rng give the same outcome.
func (m *Mem) Crash(rng *rand.Rand) *Mem { return m.CrashWith(rng, CrashOptions{}) }

// CrashWith is Crash with the outcome chosen. rng may be nil if an option is
// set.
func (m *Mem) CrashWith(rng *rand.Rand, opts CrashOptions) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.crashed = true
	keep := opts.coin(rng)
	survives := make([]bool, len(m.unsynced))
	for i := range survives {
		survives[i] = keep()
	}
	withDependencies(m.unsynced, survives)
	after := &crashImage{names: map[*memDir]map[string]memNode{}, files: map[*memFile]*memFile{}, rng: rng, opts: opts}
	for i, op := range m.unsynced {
		if survives[i] {
			after.apply(op)
		}
	}
	fresh := &Mem{capacityBytes: m.capacityBytes, chance: m.chance, evictions: m.evictions}
	fresh.root = after.dir(m.root)
	fresh.usedBytes = usedBelow(fresh.root, map[*memFile]bool{})
	return fresh
}

// crashImage builds the tree that a power loss leaves, without changing the
// one that it came from.
type crashImage struct {
	names map[*memDir]map[string]memNode // of directories with surviving operations
	files map[*memFile]*memFile          // what was made of each: a file may have several names
	rng   *rand.Rand
	opts  CrashOptions
}

func (c *crashImage) apply(op *nameOp) {
	for _, e := range op.edits {
		names := c.names[e.dir]
		if names == nil {
			names = map[string]memNode{}
			for name, n := range e.dir.durable {
				names[name] = n
			}
			c.names[e.dir] = names
		}
		if e.node == nil {
			delete(names, e.name)
		} else {
			names[e.name] = e.node
		}
	}
}

// dir visits names in order, so that the same rng decides the same.
func (c *crashImage) dir(d *memDir) *memDir {
	names := c.names[d]
	if names == nil {
		names = d.durable
	}
	fresh := newMemDir()
	for _, name := range sortedNames(names) {
		var n memNode
		switch old := names[name].(type) {
		case *memDir:
			n = c.dir(old)
		case *memFile:
			n = c.file(old)
		case *memDB:
			n = &memDB{state: old.state.Clone()}
		}
		fresh.live[name], fresh.durable[name] = n, n
	}
	return fresh
}

// file returns the one file that is left of one, and counts its names.
func (c *crashImage) file(old *memFile) *memFile {
	if c.files[old] == nil {
		c.files[old] = old.afterCrash(c.rng, c.opts)
	}
	c.files[old].links++
	return c.files[old]
}

// KillClone returns the file system as it is when the process that used it is
// killed now: all that was written and every name is there, synced or not
// (and what was not synced can still be lost by a Crash of the clone); files
// and databases are closed, locks released. m is not affected, so that one
// moment can be looked at in several ways: m.KillClone().Crash(rng) is a power
// loss that m does not notice.
func (m *Mem) KillClone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	clones := killClones{}
	fresh := &Mem{capacityBytes: m.capacityBytes, chance: m.chance, evictions: m.evictions, root: clones.of(m.root).(*memDir)}
	for _, op := range m.unsynced {
		fresh.unsynced = append(fresh.unsynced, clones.op(op))
	}
	fresh.usedBytes = usedBelow(fresh.root, map[*memFile]bool{})
	return fresh
}

// killClones are the copies by their originals, of which one may have a name
// in a directory, another name that is durable, and more in operations.
type killClones map[memNode]memNode

func (k killClones) of(n memNode) memNode {
	if n == nil || k[n] != nil {
		return k[n]
	}
	switch old := n.(type) {
	case *memDir:
		fresh := newMemDir()
		k[n] = fresh
		for name, child := range old.live {
			fresh.live[name] = k.of(child)
		}
		for name, child := range old.durable {
			fresh.durable[name] = k.of(child)
		}
	case *memFile:
		k[n] = old.afterKill()
	case *memDB:
		k[n] = &memDB{state: old.state.Clone()}
	}
	return k[n]
}

func (k killClones) op(old *nameOp) *nameOp {
	fresh := &nameOp{}
	for _, e := range old.edits {
		fresh.edits = append(fresh.edits, nameEdit{k.of(e.dir).(*memDir), e.name, k.of(e.node)})
	}
	if old.empties != nil {
		fresh.empties = k.of(old.empties).(*memDir)
	}
	return fresh
}

// usedBelow counts files once that have several names.
func usedBelow(d *memDir, counted map[*memFile]bool) int64 {
	var used int64
	for _, n := range d.live {
		switch n := n.(type) {
		case *memDir:
			used += usedBelow(n, counted)
		case *memFile:
			if !counted[n] {
				counted[n] = true
				used += int64(len(n.sectors)) * sectorBytes
			}
		}
	}
	return used
}

// Corrupt inverts every bit of a range of a file, in what calls see and in
// what a crash leaves: a disk that returns something else than it was given.
// A hole stays a hole.
func (m *Mem) Corrupt(name string, off, length int64) error {
	if err := m.enter("corrupt", name); err != nil {
		return err
	}
	defer m.mu.Unlock()
	n, err := m.lookup(name)
	if err != nil {
		return wrap("corrupt", name, err)
	}
	f, ok := n.(*memFile)
	if !ok {
		return wrap("corrupt", name, syscall.EINVAL)
	}
	f.corrupt(off, length)
	return nil
}
