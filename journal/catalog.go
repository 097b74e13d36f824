package journal

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// catalog reads and writes the store's database. Every write is durable and
// atomic on return.
type catalog struct{ db kv.DB }

// openCatalog opens the database of a store. It must be there: making an
// empty one in its place would hide that it is lost.
func openCatalog(cfg *Config) (catalog, error) {
	name := cfg.file(catalogFile)
	if _, err := cfg.FS.Stat(name); errors.Is(err, vfs.ErrNotExist) {
		return catalog{}, &CorruptError{File: catalogFile, What: "catalog", Wanted: "a file", Found: "none"}
	} else if err != nil {
		return catalog{}, fmt.Errorf("open %s: %w", catalogFile, err)
	}
	var db kv.DB
	err := guardCatalog(func() (err error) {
		db, err = cfg.FS.OpenDB(name)
		return err
	})
	var damage *kv.CorruptError
	switch {
	case errors.Is(err, kv.ErrLocked):
		return catalog{}, fmt.Errorf("%w: %s", ErrInUse, name)
	case errors.As(err, &damage):
		return catalog{}, damagedDatabase(damage)
	}
	return catalog{db}, err
}

// damagedDatabase is what is wrong with the database's file, in the words of
// this package.
func damagedDatabase(e *kv.CorruptError) error {
	damage := &CorruptError{
		File: catalogFile, Offset: e.Offset, What: fmt.Sprintf("%s of database page %d", e.What, e.Page), Wanted: e.Wanted, Found: e.Found,
	}
	if errors.Is(e, kv.ErrVersion) {
		damage.Kind = ErrVersion
	}
	return damage
}

// guardCatalog turns a panic of the database into an error. What is damaged
// when it is opened was found there (kv.OpenBolt); but its file is mapped, and a
// page that the disk cannot read later is a fault, and one that changes makes
// the library panic. Neither must end the process, which serves other volumes.
func guardCatalog(use func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if found := recover(); found != nil {
			err = &CorruptError{File: catalogFile, What: "database", Wanted: "whole pages", Found: fmt.Sprint(found)}
		}
	}()
	return use()
}

func (c *catalog) view(fn func(tx kv.Tx) error) error {
	return guardCatalog(func() error { return c.db.View(fn) })
}

func (c *catalog) update(fn func(tx kv.Tx) error) error {
	return guardCatalog(func() error { return c.db.Update(fn) })
}

// put stores a value behind its checksum.
func (c *catalog) put(tx kv.Tx, bucket string, key []byte, value any) error {
	b, err := encodeValue(bucket, key, value)
	if err != nil {
		return err
	}
	return tx.Put(bucket, key, b)
}

func (c *catalog) saveState(tx kv.Tx, s catalogState) error {
	return c.put(tx, bucketMeta, keyState, s)
}

func (c *catalog) saveTimeline(tx kv.Tx, t Timeline) error {
	return c.put(tx, bucketTimelines, key64(uint64(t.ID)), t)
}

func (c *catalog) saveSegment(tx kv.Tx, id segmentID, e segmentEntry) error {
	return c.put(tx, bucketSegments, key64(uint64(id)), e)
}

func (c *catalog) savePin(tx kv.Tx, name string, at Position) error {
	return c.put(tx, bucketPins, []byte(name), at)
}

func (c *catalog) dropSegment(tx kv.Tx, id segmentID) error {
	return tx.Delete(bucketSegments, key64(uint64(id)))
}

func (c *catalog) dropTimeline(tx kv.Tx, id TimelineID) error {
	return tx.Delete(bucketTimelines, key64(uint64(id)))
}

// usable reports whether the database still takes updates.
func (c *catalog) usable() bool {
	probe := errors.New("only a question")
	return errors.Is(c.update(func(kv.Tx) error { return probe }), probe)
}

// catalogContent is all that a catalog holds.
type catalogContent struct {
	state     catalogState
	timelines map[TimelineID]Timeline
	segments  map[segmentID]segmentEntry
	pins      map[string]Position
	scrub     scrubState
	damage    damageList
}

// load reads the whole catalog. damage is called for each value that cannot be
// read and returns whether to go on.
func (c *catalog) load(damage func(error) bool) (catalogContent, error) {
	content := catalogContent{
		timelines: map[TimelineID]Timeline{}, segments: map[segmentID]segmentEntry{}, pins: map[string]Position{},
	}
	err := c.view(func(tx kv.Tx) error {
		if err := checkBuckets(tx); err != nil && !damage(err) {
			return nil
		}
		state, err := decodeState(tx.Get(bucketMeta, keyState))
		if err != nil && !damage(err) {
			return nil
		}
		content.state = state
		if content.scrub, err = decodeScrub(tx.Get(bucketMeta, keyScrub)); err != nil && !damage(err) {
			return nil
		}
		if content.damage, err = decodeDamage(tx.Get(bucketMeta, keyDamage)); err != nil && !damage(err) {
			return nil
		}
		each := func(bucket string, into func(key, value []byte) error) {
			tx.Range(bucket, nil, func(key, value []byte) bool {
				err := into(key, value)
				return err == nil || damage(err)
			})
		}
		each(bucketTimelines, func(key, value []byte) error {
			t, err := decodeTimeline(key, value)
			if err == nil {
				content.timelines[t.ID] = t
			}
			return err
		})
		each(bucketSegments, func(key, value []byte) error {
			id, e, err := decodeSegmentEntry(key, value)
			if err == nil {
				content.segments[id] = e
			}
			return err
		})
		each(bucketPins, func(key, value []byte) error {
			name, at, err := decodePin(key, value)
			if err == nil {
				content.pins[name] = at
			}
			return err
		})
		return nil
	})
	if err == nil && content.state.Active != 0 {
		if err := content.checkTimelines(); err != nil {
			damage(err)
		}
	}
	return content, err
}

// checkBuckets finds a bucket whose name has changed: its values would be missed
// by nobody, pins for example.
func checkBuckets(tx kv.Tx) error {
	known := []string{bucketMeta, bucketTimelines, bucketSegments, bucketPins}
	for _, name := range tx.Buckets() {
		if !slices.Contains(known, name) {
			return &CorruptError{File: catalogFile, What: "bucket", Wanted: fmt.Sprintf("one of %q", known), Found: fmt.Sprintf("%q", name)}
		}
	}
	return nil
}

// checkTimelines makes sure that whoever follows a timeline's parents comes to
// an end, and that the state names timelines that are there.
func (c *catalogContent) checkTimelines() error {
	bad := func(wanted, found string) error {
		return &CorruptError{File: catalogFile, What: "timelines", Wanted: wanted, Found: found}
	}
	for _, id := range []TimelineID{c.state.Active, c.state.Base.Timeline, c.state.Horizon.Timeline} {
		if _, ok := c.timelines[id]; !ok {
			return bad("timeline "+id.String()+" of the state", "none")
		}
	}
	for id := range c.timelines {
		steps := 0
		for at, ok := c.timelines[id]; ok; at, ok = c.timelines[at.Parent.Timeline] {
			if steps++; steps > len(c.timelines) {
				return bad("a tree", "timeline "+id.String()+" among its own parents")
			}
		}
	}
	return nil
}
