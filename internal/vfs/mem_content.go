package vfs

import (
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
)

// sectorBytes is what a disk writes whole or not at all.
const sectorBytes = 512

// sector is the content of one. It is immutable once a file has it, so that
// images and clones can share it.
type sector [sectorBytes]byte

// allocatedSector stands for space that is reserved and was never written.
var allocatedSector = new(sector)

// image is the content of a file: its size, and its sectors by number. One
// that is missing is a hole. Bytes of a sector beyond the size are zero.
type image struct {
	size    int64
	sectors map[int64]*sector
}

func (i *image) clone() image { return image{i.size, maps.Clone(i.sectors)} }

func (i *image) set(c sectorChange) {
	if c.content == nil {
		delete(i.sectors, c.number)
	} else {
		i.sectors[c.number] = c.content
	}
}

// trim restores what an image promises after a size was set without regard
// to the sectors.
func (i *image) trim() {
	for number, content := range i.sectors {
		switch inside := i.size - number*sectorBytes; {
		case inside <= 0:
			delete(i.sectors, number)
		case inside < sectorBytes:
			cut := *content
			clear(cut[inside:])
			i.sectors[number] = &cut
		}
	}
}

// change is what one call did to a file.
type change struct {
	sectors []sectorChange
	size    int64 // -1: as before
	// atomic: the file system does it in its own journal, so a crash leaves
	// all of it or nothing. Otherwise every sector, and the size, survives on
	// its own.
	atomic bool
	// arrived: a failed Sync gave up on it, but the disk turned out to have
	// it. The next Sync, which flushes the disk, makes it durable.
	arrived bool
}

// isData reports whether what is between the change and the disk is the page
// cache, and not the file system's own journal.
func (c change) isData() bool {
	return !c.atomic && slices.ContainsFunc(c.sectors, func(s sectorChange) bool { return s.content != nil })
}

// sectorChange is the new content of a sector, nil for a hole.
type sectorChange struct {
	number  int64
	content *sector
}

func (c change) applyTo(i *image) {
	for _, s := range c.sectors {
		i.set(s)
	}
	if c.size >= 0 {
		i.size = c.size
	}
}

// survive applies the part of a change that keep, asked once for each thing
// that can be lost by itself, says is left.
func (c change) survive(i *image, keep func() bool) {
	if c.atomic {
		if keep() {
			c.applyTo(i)
		}
		return
	}
	for _, s := range c.sectors {
		if keep() {
			i.set(s)
		}
	}
	if c.size >= 0 && keep() {
		i.size = c.size
	}
}

// memFile is the content of a file, whatever its name. image is what calls
// see; guarded by the lock of its Mem.
type memFile struct {
	image
	durable image
	// dropped are the changes that a failed Sync gave up on, unsynced those
	// after it, both oldest first. A crash may keep any of either; a Sync
	// makes only unsynced durable. Reads see what was dropped, too, until the
	// pages leave the cache: then it shows what the disk has of it.
	dropped, unsynced []change

	handles int
	links   int // names that lead here
	locked  bool
	cold    bool // the cache was dropped and nothing was read since
}

func newMemFile() *memFile {
	return &memFile{
		image:   image{sectors: map[int64]*sector{}},
		durable: image{sectors: map[int64]*sector{}},
	}
}

// releaseIfUnused gives back the space of a file that nothing leads to.
func (m *Mem) releaseIfUnused(f *memFile) {
	if f.links == 0 && f.handles == 0 {
		m.usedBytes -= int64(len(f.sectors)) * sectorBytes
	}
}

// do makes a change visible, and unsynced.
func (m *Mem) do(f *memFile, c change) {
	m.usedBytes -= int64(len(f.sectors)) * sectorBytes
	c.applyTo(&f.image)
	m.usedBytes += int64(len(f.sectors)) * sectorBytes
	f.unsynced = append(f.unsynced, c)
}

func (f *memFile) read(p []byte, off int64) int {
	n := int(max(0, min(int64(len(p)), f.size-off)))
	for done := 0; done < n; {
		number, start := (off+int64(done))/sectorBytes, (off+int64(done))%sectorBytes
		part := p[done:min(n, done+int(sectorBytes-start))]
		if content := f.sectors[number]; content != nil {
			copy(part, content[start:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return n
}

// write stores as much of p as there is room for.
func (m *Mem) write(f *memFile, p []byte, off int64) (int, error) {
	c := change{size: -1}
	done, free := 0, m.capacityBytes-m.usedBytes
	for done < len(p) {
		number, start := (off+int64(done))/sectorBytes, (off+int64(done))%sectorBytes
		var content sector
		if old := f.sectors[number]; old != nil {
			content = *old
		} else if free -= sectorBytes; free < 0 {
			break
		}
		done += copy(content[start:], p[done:])
		c.sectors = append(c.sectors, sectorChange{number, &content})
	}
	if end := off + int64(done); done > 0 && end > f.size {
		c.size = end
	}
	m.do(f, c)
	if done < len(p) {
		return done, syscall.ENOSPC
	}
	return done, nil
}

func (m *Mem) truncate(f *memFile, size int64) {
	c := change{size: size, atomic: true}
	if size < f.size {
		c.sectors = f.cleared(size, f.size)
	}
	m.do(f, c)
}

// cleared lists the changes that make a range read as zeroes: holes, and at
// its ends sectors of which a part is zero.
func (f *memFile) cleared(from, to int64) []sectorChange {
	var list []sectorChange
	for _, number := range slices.Sorted(maps.Keys(f.sectors)) {
		start := max(from-number*sectorBytes, 0)
		end := min(to-number*sectorBytes, sectorBytes)
		if start >= end {
			continue
		}
		if number*sectorBytes+end >= f.size {
			end = sectorBytes // what is beyond the size is zero already
		}
		c := sectorChange{number: number}
		if end-start < sectorBytes {
			content := *f.sectors[number]
			clear(content[start:end])
			c.content = &content
		}
		list = append(list, c)
	}
	return list
}

func (m *Mem) allocate(f *memFile, off, length int64) error {
	c := change{size: -1, atomic: true}
	if length == 0 {
		return nil
	}
	for number := off / sectorBytes; number*sectorBytes < off+length; number++ {
		if f.sectors[number] == nil {
			c.sectors = append(c.sectors, sectorChange{number, allocatedSector})
		}
	}
	if int64(len(c.sectors))*sectorBytes > m.capacityBytes-m.usedBytes {
		return syscall.ENOSPC
	}
	if off+length > f.size {
		c.size = off + length
	}
	m.do(f, c)
	return nil
}

// nextData returns the first run of sectors that were written.
func (f *memFile) nextData(off int64) (start, length int64) {
	end := off
	for _, number := range slices.Sorted(maps.Keys(f.sectors)) {
		from := max(off, number*sectorBytes)
		to := min(f.size, (number+1)*sectorBytes)
		switch {
		case f.sectors[number] == allocatedSector || to <= off:
		case length == 0:
			start, end, length = from, to, to-from
		case from == end:
			end, length = to, to-start
		default:
			return start, length
		}
	}
	if length == 0 {
		return off, 0
	}
	return start, length
}

// sync makes the unsynced changes durable. What a failed sync dropped stays
// lost to a crash, unless it was written again since.
func (f *memFile) sync() {
	f.dropped = slices.DeleteFunc(f.dropped, func(c change) bool {
		if c.arrived {
			c.applyTo(&f.durable)
		}
		return c.arrived
	})
	rewritten, resized := map[int64]bool{}, false
	for _, c := range f.unsynced {
		c.applyTo(&f.durable)
		resized = resized || c.size >= 0
		for _, s := range c.sectors {
			rewritten[s.number] = true
		}
	}
	f.unsynced = nil
	for i := range f.dropped {
		c := &f.dropped[i]
		c.sectors = slices.DeleteFunc(slices.Clone(c.sectors), func(s sectorChange) bool { return rewritten[s.number] })
		if resized {
			c.size = -1
		}
	}
}

// failSync does what Linux does with pages that it failed to write: it takes
// them for clean, so that the next Sync succeeds without writing them.
func (f *memFile) failSync() {
	f.dropped = append(f.dropped, f.unsynced...)
	f.unsynced = nil
}

// evict takes the clean pages out of the cache. Of what a failed Sync gave up
// on, each sector had reached the disk before the failure or is lost for good,
// as chance decides; the next read tells. Dirty pages stay.
func (m *Mem) evict(f *memFile) {
	if len(f.dropped) == 0 {
		return
	}
	m.evictions++
	reached := CrashOptions{}.coin(rand.New(rand.NewPCG(m.chance, m.evictions)))
	dirty := map[int64]bool{}
	for _, c := range f.unsynced {
		for _, s := range c.sectors {
			dirty[s.number] = true
		}
	}
	var left []change
	for _, c := range f.dropped {
		if c.arrived || !c.isData() {
			left = append(left, c)
			continue
		}
		arrived, hidden := change{size: -1, arrived: true}, change{size: c.size}
		for _, s := range c.sectors {
			switch {
			case dirty[s.number]:
				hidden.sectors = append(hidden.sectors, s)
			case reached():
				arrived.sectors = append(arrived.sectors, s)
			}
		}
		left = append(left, hidden, arrived)
	}
	f.dropped = left
	m.usedBytes -= int64(len(f.sectors)) * sectorBytes
	f.image = f.durable.clone()
	for _, c := range slices.Concat(f.dropped, f.unsynced) {
		c.applyTo(&f.image)
	}
	m.usedBytes += int64(len(f.sectors)) * sectorBytes
}

// afterCrash returns the file as a power loss leaves it.
func (f *memFile) afterCrash(rng *rand.Rand, opts CrashOptions) *memFile {
	left := f.durable.clone()
	keep := opts.coin(rng)
	for _, c := range slices.Concat(f.dropped, f.unsynced) {
		c.survive(&left, keep)
	}
	left.trim()
	return &memFile{image: left, durable: left.clone()}
}

// afterKill returns the file as the end of its process leaves it.
func (f *memFile) afterKill() *memFile {
	seen := f.image
	return &memFile{
		image:    seen.clone(),
		durable:  f.durable.clone(),
		dropped:  slices.Clone(f.dropped),
		unsynced: slices.Clone(f.unsynced),
		links:    f.links,
	}
}

// corrupt inverts the bytes of a range wherever the file holds a version of
// them. Holes stay.
func (f *memFile) corrupt(off, length int64) {
	invert := func(number int64, content *sector) *sector {
		start := max(off-number*sectorBytes, 0)
		end := min(off+length-number*sectorBytes, sectorBytes)
		if content == nil || start >= end {
			return content
		}
		damaged := *content
		for i := start; i < end; i++ {
			damaged[i] = ^damaged[i]
		}
		return &damaged
	}
	for _, sectors := range []map[int64]*sector{f.sectors, f.durable.sectors} {
		for number, content := range sectors {
			sectors[number] = invert(number, content)
		}
	}
	for _, list := range [][]change{f.dropped, f.unsynced} {
		for i := range list {
			// A clone may share the list.
			list[i].sectors = slices.Clone(list[i].sectors)
			for j, s := range list[i].sectors {
				list[i].sectors[j].content = invert(s.number, s.content)
			}
		}
	}
}
