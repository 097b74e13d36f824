package journal

import "sync"

// blockCache keeps verified blocks of index runs, up to a number of them. It
// is a clock: a block that was used since the hand last passed it stays.
type blockCache struct {
	mu    sync.Mutex
	limit int // blocks
	slots []cachedBlock
	at    map[blockKey]int // slot of each
	hand  int
}

// cachedBlockBytes is what a cached block takes: its extents, its slot and its
// entry in the map.
const cachedBlockBytes = runExtentsPerBlock*footerExtentBytes + 128

type blockKey struct {
	run   uint64 // run.serial
	block int64
}

type cachedBlock struct {
	key     blockKey
	extents table
	used    bool
}

func newBlockCache(bytes int64) *blockCache {
	return &blockCache{limit: max(1, int(bytes/cachedBlockBytes)), at: map[blockKey]int{}}
}

// get returns a block, which the caller must not change; nil if it is not
// there.
func (c *blockCache) get(key blockKey) table {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.at[key]
	if !ok {
		return nil
	}
	c.slots[i].used = true
	return c.slots[i].extents
}

// put keeps a block, which nobody changes any more.
func (c *blockCache) put(key blockKey, extents table) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i, ok := c.at[key]; ok {
		c.slots[i].extents = extents
		return
	}
	if len(c.slots) < c.limit {
		c.at[key] = len(c.slots)
		c.slots = append(c.slots, cachedBlock{key: key, extents: extents})
		return
	}
	for c.slots[c.hand].used {
		c.slots[c.hand].used = false
		c.hand = (c.hand + 1) % len(c.slots)
	}
	delete(c.at, c.slots[c.hand].key)
	c.slots[c.hand] = cachedBlock{key: key, extents: extents}
	c.at[key] = c.hand
	c.hand = (c.hand + 1) % len(c.slots)
}

// bytes estimates the memory of what is cached.
func (c *blockCache) bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(len(c.slots)) * cachedBlockBytes
}
