package journal

import (
	"errors"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// run is an open index run. Of its extents only what the blocks end with is in
// memory; the blocks are read as they are needed, verified each time, and kept
// in the store's cache. All fields but users are immutable.
type run struct {
	header   runHeader
	name     string
	file     vfs.File
	fences   []uint64 // the sector behind the last extent of each block
	segments []runSegment
	serial   uint64 // never used twice in a process
	cache    *blockCache
	users    int // guarded by runSet.mu
}

var runSerials atomic.Uint64

// runDamage is an error of a run, which holds nothing that cannot be had from
// the segments: whoever meets it drops the run and goes on without it.
type runDamage struct {
	run *run
	err error
}

func (d *runDamage) Error() string { return d.err.Error() }
func (d *runDamage) Unwrap() error { return d.err }

// errWouldWait: a block is not in memory, and the caller does not want to wait
// for the disk.
var errWouldWait = errors.New("an index block is not in memory")

// openRun opens a run of a volume and verifies all but its blocks.
func openRun(cfg *Config, volume VolumeID, key runKey, cache *blockCache) (r *run, err error) {
	r = &run{name: key.name(), serial: runSerials.Add(1), cache: cache}
	if r.file, err = cfg.FS.OpenReadOnly(cfg.file(r.name)); err != nil {
		return nil, fmt.Errorf("open index run %s: %w", r.name, err)
	}
	if err := r.load(volume, key); err != nil {
		return nil, errors.Join(err, r.file.Close())
	}
	return r, nil
}

func (r *run) load(volume VolumeID, key runKey) error {
	size, err := r.file.Size()
	if err != nil {
		return fmt.Errorf("read size of %s: %w", r.name, err)
	}
	block := make([]byte, blockBytes)
	if err := readFull(r.file, block, 0); err != nil {
		return fmt.Errorf("read header of %s: %w", r.name, err)
	}
	if r.header, err = decodeRunHeader(block, size); err != nil {
		return locate(err, r.name, 0)
	}
	if r.header.volume != volume || r.header.key != key {
		return &CorruptError{File: r.name, What: "index run header", Wanted: fmt.Sprintf("volume %s, %+v", volume, key), Found: fmt.Sprintf("volume %s, %+v", r.header.volume, r.header.key)}
	}
	at := blockBytes * (1 + r.header.blocks)
	tail := make([]byte, r.header.tailBytes)
	if err := readFull(r.file, tail, at); err != nil {
		return fmt.Errorf("read tail of %s: %w", r.name, err)
	}
	if r.fences, r.segments, err = decodeRunTail(&r.header, tail); err != nil {
		return locate(err, r.name, at)
	}
	return nil
}

// rawBlocks holds buffers for blocks as they are on disk.
var rawBlocks = sync.Pool{New: func() any { return new([blockBytes]byte) }}

// block returns a verified block. Without wait it is errWouldWait if the disk
// would have to be waited for. The caller must not change it.
func (r *run) block(number int64, wait bool) (table, error) {
	key := blockKey{r.serial, number}
	if extents := r.cache.get(key); extents != nil {
		return extents, nil
	}
	raw := rawBlocks.Get().(*[blockBytes]byte)
	defer rawBlocks.Put(raw)
	at := blockBytes * (1 + number)
	if !wait {
		if done, err := r.file.TryReadAt(raw[:], at); err != nil || !done {
			return nil, errors.Join(errWouldWait, err)
		}
	} else if err := readFull(r.file, raw[:], at); err != nil {
		return nil, &runDamage{r, fmt.Errorf("read %s at offset %d: %w", r.name, at, err)}
	}
	extents, err := r.decode(make(table, 0, runExtentsPerBlock), raw[:], number)
	if err != nil {
		return nil, err
	}
	r.cache.put(key, extents)
	return extents, nil
}

// decode verifies a block and appends its extents to dst, which is empty.
func (r *run) decode(dst table, raw []byte, number int64) (table, error) {
	extents, err := decodeRunBlock(dst, raw, &r.header, number)
	if err == nil && extents[len(extents)-1].end() != r.fences[number] {
		err = wireCorrupt("index run block", fmt.Sprintf("end at sector %d", r.fences[number]), fmt.Sprint(extents[len(extents)-1].end()))
	}
	if err != nil {
		return nil, &runDamage{r, locate(err, r.name, blockBytes*(1+number))}
	}
	return extents, nil
}

// first implements layer.
func (r *run) first(start, end uint64, wait bool) (extent, bool, error) {
	i := sort.Search(len(r.fences), func(i int) bool { return r.fences[i] > start })
	if i == len(r.fences) {
		return extent{}, false, nil
	}
	block, err := r.block(int64(i), wait)
	if err != nil {
		return extent{}, false, err
	}
	return block.first(start, end, wait)
}

// runCursorBytes is how much a cursor reads at once.
const runCursorBytes = 256 << 10

// runCursor yields all extents of a run, around the cache.
type runCursor struct {
	run    *run
	number int64  // of the next block
	raw    []byte // blocks that were read and are not decoded yet
	buf    []byte // what raw is a part of
	block  table  // the decoded one
	rest   table  // what is left of it
}

func (r *run) cursor() cursor {
	return &runCursor{run: r, block: make(table, 0, runExtentsPerBlock)}
}

func (c *runCursor) next() (extent, bool, error) {
	if len(c.rest) == 0 {
		if c.number == c.run.header.blocks {
			return extent{}, false, nil
		}
		if err := c.advance(); err != nil {
			return extent{}, false, err
		}
	}
	e := c.rest[0]
	c.rest = c.rest[1:]
	return e, true, nil
}

func (c *runCursor) advance() error {
	r := c.run
	if len(c.raw) == 0 {
		n := min(runCursorBytes/blockBytes, r.header.blocks-c.number) * blockBytes
		if c.buf == nil {
			c.buf = make([]byte, n)
		}
		c.raw = c.buf[:n]
		at := blockBytes * (1 + c.number)
		if err := readFull(r.file, c.raw, at); err != nil {
			return &runDamage{r, fmt.Errorf("read %s at offset %d: %w", r.name, at, err)}
		}
	}
	extents, err := r.decode(c.block[:0], c.raw[:blockBytes], c.number)
	if err != nil {
		return err
	}
	c.raw, c.block, c.rest = c.raw[blockBytes:], extents, extents
	c.number++
	return nil
}
