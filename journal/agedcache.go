package journal

import "sync"

// agedCache keeps values that nobody changes any more, each under a place in a
// segment, up to a number of bytes, nearly. It has two generations: when the younger
// has half of that, it becomes the older, and what was the older and not used
// meanwhile is forgotten.
type agedCache[V sized] struct {
	limit int64 // bytes

	mu         sync.Mutex
	young, old map[segmentPlace]V
	used       int64 // by young
}

// sized is a value that says how many bytes of memory it takes.
type sized interface{ memoryBytes() int64 }

// segmentPlace is an offset in a segment's file.
type segmentPlace struct {
	g   *segment
	off int64
}

// agedEntryBytes is what an entry takes besides its value.
const agedEntryBytes = 64

func newAgedCache[V sized](limit int64) *agedCache[V] {
	return &agedCache[V]{limit: limit, young: map[segmentPlace]V{}}
}

// get returns a value, which the caller must not change, and whether it is there.
func (c *agedCache[V]) get(key segmentPlace) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok = c.young[key]; ok {
		return v, true
	}
	if v, ok = c.old[key]; ok {
		delete(c.old, key)
		c.keep(key, v)
	}
	return v, ok
}

// put keeps a value.
func (c *agedCache[V]) put(key segmentPlace, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.young[key]; !ok {
		c.keep(key, v)
	}
}

// drop forgets a value.
func (c *agedCache[V]) drop(key segmentPlace) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.young[key]; ok {
		c.used -= v.memoryBytes() + agedEntryBytes
	}
	delete(c.young, key)
	delete(c.old, key)
}

// keep adds a value to the younger generation. mu must be held.
func (c *agedCache[V]) keep(key segmentPlace, v V) {
	bytes := v.memoryBytes() + agedEntryBytes
	if c.used+bytes > c.limit/2 && len(c.young) > 0 {
		c.young, c.old, c.used = map[segmentPlace]V{}, c.young, 0
	}
	c.young[key] = v
	c.used += bytes
}
