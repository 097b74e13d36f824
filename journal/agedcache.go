package journal

import "sync"

// agedCache keeps lists of numbers, each under a place in a segment, up to a
// number of bytes, nearly. It has two generations: when the younger has half of
// that, it becomes the older, and what was the older and not used meanwhile is
// forgotten.
type agedCache struct {
	limit int64 // bytes

	mu         sync.Mutex
	young, old map[segmentPlace][]uint32
	used       int64 // by young
}

// segmentPlace is an offset in a segment's file.
type segmentPlace struct {
	g   *segment
	off int64
}

// agedEntryBytes is what an entry takes besides its numbers.
const agedEntryBytes = 64

func newAgedCache(limit int64) *agedCache {
	return &agedCache{limit: limit, young: map[segmentPlace][]uint32{}}
}

// get returns a list, which the caller must not change; nil if it is not there.
func (c *agedCache) get(key segmentPlace) []uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if list, ok := c.young[key]; ok {
		return list
	}
	list := c.old[key]
	if list != nil {
		delete(c.old, key)
		c.keep(key, list)
	}
	return list
}

// put keeps a list, which nobody changes any more.
func (c *agedCache) put(key segmentPlace, list []uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.young[key]; !ok {
		c.keep(key, list)
	}
}

// drop forgets a list.
func (c *agedCache) drop(key segmentPlace) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if list, ok := c.young[key]; ok {
		c.used -= int64(len(list))*4 + agedEntryBytes
	}
	delete(c.young, key)
	delete(c.old, key)
}

// keep adds a list to the younger generation. mu must be held.
func (c *agedCache) keep(key segmentPlace, list []uint32) {
	bytes := int64(len(list))*4 + agedEntryBytes
	if c.used+bytes > c.limit/2 && len(c.young) > 0 {
		c.young, c.old, c.used = map[segmentPlace][]uint32{}, c.young, 0
	}
	c.young[key] = list
	c.used += bytes
}
