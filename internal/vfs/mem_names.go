package vfs

import (
	"slices"
	"syscall"
)

// memNode is what a name stands for: *memDir, *memFile or *memDB.
type memNode interface{ isMemNode() }

func (*memDir) isMemNode()  {}
func (*memFile) isMemNode() {}
func (*memDB) isMemNode()   {}

// memDir is a directory: the names that calls see, and the names that are
// there after a power loss if none of the unsynced operations survives.
type memDir struct {
	live, durable map[string]memNode
}

func newMemDir() *memDir {
	return &memDir{live: map[string]memNode{}, durable: map[string]memNode{}}
}

// nameOp is one directory operation. It survives a crash wholly or not at
// all, which is what makes a rename atomic.
type nameOp struct {
	edits []nameEdit
	// empties is the directory that the operation removes or replaces, which
	// the operations before it have emptied.
	empties *memDir
}

// nameEdit lets a name stand for node, or for nothing if node is nil.
type nameEdit struct {
	dir  *memDir
	name string
	node memNode
}

func (op *nameOp) changes(dir *memDir) bool {
	return slices.ContainsFunc(op.edits, func(e nameEdit) bool { return e.dir == dir })
}

// dependsOn reports whether op cannot be durable without an earlier one: it
// changes the same name (else a file that was renamed twice could come back
// under two names), or removes the directory that the earlier one emptied
// (else a file that was moved out of it would be lost).
func (op *nameOp) dependsOn(earlier *nameOp) bool {
	if op.empties != nil && earlier.changes(op.empties) {
		return true
	}
	return slices.ContainsFunc(op.edits, func(e nameEdit) bool {
		return slices.ContainsFunc(earlier.edits, func(before nameEdit) bool {
			return before.dir == e.dir && before.name == e.name
		})
	})
}

// withDependencies adds to a choice of operations those that they depend on.
func withDependencies(ops []*nameOp, chosen []bool) {
	for i := len(ops) - 1; i >= 0; i-- {
		for j := 0; chosen[i] && j < i; j++ {
			chosen[j] = chosen[j] || ops[i].dependsOn(ops[j])
		}
	}
}

// apply makes an operation visible, and unsynced.
func (m *Mem) apply(op *nameOp) {
	var replaced []*memFile
	for _, e := range op.edits {
		if f, ok := e.dir.live[e.name].(*memFile); ok {
			f.links--
			replaced = append(replaced, f)
		}
		if f, ok := e.node.(*memFile); ok {
			f.links++
		}
		if e.node == nil {
			delete(e.dir.live, e.name)
		} else {
			e.dir.live[e.name] = e.node
		}
	}
	for _, f := range replaced {
		m.releaseIfUnused(f)
	}
	m.unsynced = append(m.unsynced, op)
}

// commitNames makes the chosen operations, and those they depend on, durable.
func (m *Mem) commitNames(choose func(*nameOp) bool) {
	chosen := make([]bool, len(m.unsynced))
	for i, op := range m.unsynced {
		chosen[i] = choose(op)
	}
	withDependencies(m.unsynced, chosen)
	var rest []*nameOp
	for i, op := range m.unsynced {
		if !chosen[i] {
			rest = append(rest, op)
			continue
		}
		for _, e := range op.edits {
			if e.node == nil {
				delete(e.dir.durable, e.name)
			} else {
				e.dir.durable[e.name] = e.node
			}
		}
	}
	m.unsynced = rest
}

// lookup finds what a path stands for, or returns an errno.
func (m *Mem) lookup(name string) (memNode, error) {
	var n memNode = m.root
	for _, part := range parts(name) {
		dir, ok := n.(*memDir)
		if !ok {
			return nil, syscall.ENOTDIR
		}
		n = dir.live[part]
		if n == nil {
			return nil, syscall.ENOENT
		}
	}
	return n, nil
}

func (m *Mem) lookupDir(name string) (*memDir, error) {
	n, err := m.lookup(name)
	if err != nil {
		return nil, err
	}
	dir, ok := n.(*memDir)
	if !ok {
		return nil, syscall.ENOTDIR
	}
	return dir, nil
}

// parent finds the directory of a path and the last part of it. The root has
// no parent: that is an errno too.
func (m *Mem) parent(name string) (*memDir, string, error) {
	all := parts(name)
	if len(all) == 0 {
		return nil, "", syscall.EBUSY
	}
	last := len(all) - 1
	dir := m.root
	for _, part := range all[:last] {
		switch next := dir.live[part].(type) {
		case *memDir:
			dir = next
		case nil:
			return nil, "", syscall.ENOENT
		default:
			return nil, "", syscall.ENOTDIR
		}
	}
	return dir, all[last], nil
}
