package journal

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"sync"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// runSet is the index runs of a store: which files there are, and which are
// open because a stack uses them. A run that cannot be read, or that is of
// other segments than those there are, is dropped; it will be made again.
type runSet struct {
	cfg    *Config
	volume VolumeID
	cache  *blockCache

	mu       sync.Mutex
	known    map[runKey]struct{}
	open     map[runKey]*run
	leftover []string // files of interrupted makings
}

func newRunSet(cfg *Config, volume VolumeID, cacheBytes int64) *runSet {
	return &runSet{
		cfg: cfg, volume: volume, cache: newBlockCache(cacheBytes),
		known: map[runKey]struct{}{}, open: map[runKey]*run{},
	}
}

// find lists the runs in the journal's directory, without looking into them.
func (rs *runSet) find(names []string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, name := range names {
		if key, ok := parseRunName(name); ok {
			rs.known[key] = struct{}{}
		} else if isRunLeftover(name) {
			rs.leftover = append(rs.leftover, path.Join(journalDir, name))
		}
	}
}

// add makes a run known whose file was just made.
func (rs *runSet) add(key runKey) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.known[key] = struct{}{}
}

func (rs *runSet) has(key runKey) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	_, ok := rs.known[key]
	return ok
}

// acquire opens a run, or shares it if it is open; nil if there is none that
// can be used. current tells whether the segments that the run was made of are
// those of the store.
func (rs *runSet) acquire(key runKey, current func([]runSegment) bool) *run {
	rs.mu.Lock()
	r := rs.open[key]
	if r != nil {
		r.users++
	}
	_, known := rs.known[key]
	rs.mu.Unlock()
	if r != nil || !known {
		return r
	}
	fresh, err := openRun(rs.cfg, rs.volume, key, rs.cache)
	if err == nil && !current(fresh.segments) {
		err = errors.Join(errStaleRun, fresh.file.Close())
	}
	if err == nil {
		return rs.enter(fresh)
	}
	rs.cfg.Log.Warn("index run cannot be used", "volume", rs.volume, "run", key.name(), "error", err)
	if isUseless(err) {
		rs.remove(key)
	}
	return nil
}

var errStaleRun = errors.New("its segments are not those of the store")

// isUseless reports whether a run will never be of use, as one that cannot be
// opened for want of a descriptor may be.
func isUseless(err error) bool {
	for _, kind := range []error{ErrCorrupt, ErrVersion, errStaleRun, vfs.ErrNotExist, io.ErrUnexpectedEOF} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// enter makes an open run known and returns it, or the one that somebody else
// has opened meanwhile, with a use of it for the caller.
func (rs *runSet) enter(fresh *run) *run {
	key := fresh.header.key
	rs.mu.Lock()
	r := rs.open[key]
	if r == nil {
		r = fresh
		rs.known[key], rs.open[key] = struct{}{}, r
	}
	r.users++
	rs.mu.Unlock()
	if r != fresh {
		rs.close(fresh)
	}
	return r
}

// release gives up one use.
func (rs *runSet) release(r *run) {
	rs.mu.Lock()
	r.users--
	last := r.users == 0
	if last && rs.open[r.header.key] == r {
		delete(rs.open, r.header.key)
	}
	rs.mu.Unlock()
	if last {
		rs.close(r)
	}
}

func (rs *runSet) close(r *run) {
	if err := r.file.Close(); err != nil {
		rs.cfg.Log.Warn("closing an index run failed", "volume", rs.volume, "run", r.name, "error", err)
	}
}

// damaged drops a run in which a block could not be read, unless another one has
// taken its place and is in use. Whoever found the damage may have been its last user:
// then nobody has it open any more.
func (rs *runSet) damaged(d *runDamage) {
	rs.mu.Lock()
	_, known := rs.known[d.run.header.key]
	open := rs.open[d.run.header.key]
	current := known && (open == nil || open == d.run)
	rs.mu.Unlock()
	if current {
		rs.cfg.Log.Warn("index run is damaged and is made again", "volume", rs.volume, "run", d.run.name, "error", d.err)
		rs.remove(d.run.header.key)
	}
}

// remove forgets a run and removes its file; who uses it goes on with the open
// file.
func (rs *runSet) remove(key runKey) {
	rs.mu.Lock()
	delete(rs.known, key)
	delete(rs.open, key)
	rs.mu.Unlock()
	rs.removeFile(key.name())
}

// removeFile removes a file if it is there. What stays is found by the next
// Open.
func (rs *runSet) removeFile(name string) {
	if err := rs.cfg.FS.Remove(rs.cfg.file(name)); err != nil && !errors.Is(err, vfs.ErrNotExist) {
		rs.cfg.Log.Warn("removing an index run failed", "volume", rs.volume, "run", name, "error", err)
	}
}

// prune removes the runs that needed does not want to keep.
func (rs *runSet) prune(needed func(runKey) bool) {
	for _, key := range rs.keys() {
		if !needed(key) {
			rs.remove(key)
		}
	}
}

// giveUpUnused removes the runs that neither the live index nor a view is using,
// and returns how many.
// Those in use are few, and of the highest levels; without them what they index
// would be in memory.
func (rs *runSet) giveUpUnused() (n int) {
	rs.prune(func(key runKey) bool {
		rs.mu.Lock()
		defer rs.mu.Unlock()
		if rs.open[key] != nil {
			return true
		}
		n++
		return false
	})
	return n
}

// removeLeftovers removes the files of interrupted makings.
func (rs *runSet) removeLeftovers() {
	rs.mu.Lock()
	names := rs.leftover
	rs.leftover = nil
	rs.mu.Unlock()
	for _, name := range names {
		rs.removeFile(name)
	}
}

func (rs *runSet) keys() []runKey {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return slices.SortedFunc(maps.Keys(rs.known), runKey.compare)
}

// levels returns the levels of the known runs, highest first.
func (rs *runSet) levels() []uint8 {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	seen := map[uint8]struct{}{}
	for key := range rs.known {
		seen[key.level] = struct{}{}
	}
	levels := slices.Sorted(maps.Keys(seen))
	slices.Reverse(levels)
	return levels
}

// closeAll closes what is open, whoever uses it.
func (rs *runSet) closeAll() error {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	var errs []error
	for key, r := range rs.open {
		if err := r.file.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close index run %s: %w", r.name, err))
		}
		delete(rs.open, key)
	}
	return errors.Join(errs...)
}
