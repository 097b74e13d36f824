package journal

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// model is what a volume must contain at every position that it ever had, and
// what of it a crash may take away. An image is as long as the volume was at
// its position; size is that of the live volume.
type model struct {
	size    int64
	tip     Position
	images  map[Position][]byte
	parents map[TimelineID]Position
	past    []Position // keys of images in the order in which they came

	durable  map[Position]bool // acknowledged by Flush or what implies it
	volatile []Position        // the others of the live timeline
	pins     map[string]Position
	points   map[CheckpointNumber]Position
	times    map[CheckpointNumber]time.Time
	history  History
	now      func() time.Time
	window   time.Duration
	budget   bool
	held     bool // there was something that kept the horizon

	// attempt is the call whose result is unknown; nil between calls.
	attempt *attempt
}

// attempt is what a call that did not return may have done.
type attempt struct {
	image  []byte   // behind the call's record; nil: no record
	images [][]byte // behind each record of several; nil: there is one, or none
	grown  []byte   // before it, behind a record that makes the tip as large as the live volume; nil: there is none
	fork   Position // a new timeline begins there
	size   int64
	pin    string // this pin may be there or not
	drain  bool   // all pins may
}

func newModel(at Position, size int64) *model {
	m := &model{
		size: size, tip: at, images: map[Position][]byte{at: make([]byte, size)}, parents: map[TimelineID]Position{at.Timeline: {}},
		times: map[CheckpointNumber]time.Time{},
		past:  []Position{at}, durable: map[Position]bool{at: true}, pins: map[string]Position{}, points: map[CheckpointNumber]Position{},
	}
	return m
}

// image returns the live content, which the caller must not change.
func (m *model) image() []byte { return m.images[m.tip] }

// live returns a copy of the live content, as long as the live volume.
func (m *model) live() []byte {
	p := make([]byte, m.size)
	copy(p, m.image())
	return p
}

// after returns the live content with p stored at off.
func (m *model) after(p []byte, off int64) []byte {
	next := m.live()
	copy(next[off:], p)
	return next
}

// advance enters a record that was appended at pos, and the one before it that
// made the tip grow, if there had to be one.
func (m *model) advance(pos Position, image []byte) {
	if m.attempt != nil && m.attempt.grown != nil {
		before := Position{pos.Timeline, pos.Seq - 1}
		m.images[before] = m.attempt.grown
		m.past = append(m.past, before)
		m.volatile = append(m.volatile, before)
	}
	m.enter(pos, image)
}

// enter enters a record that was appended at pos.
func (m *model) enter(pos Position, image []byte) {
	m.tip, m.images[pos] = pos, image
	m.past = append(m.past, pos)
	m.volatile = append(m.volatile, pos)
}

func (m *model) acknowledge() {
	for _, pos := range m.volatile {
		m.durable[pos] = true
	}
	m.volatile = nil
}

// learn enters the timelines of a store that the model does not know.
func (m *model) learn(s *Store) {
	for _, line := range s.Timelines() {
		m.parents[line.ID] = line.Parent
	}
}

// at returns the content at a position, also of a record that was being
// appended and of a timeline without a record.
func (m *model) at(pos Position) ([]byte, bool) {
	if image, ok := m.images[pos]; ok {
		return image, true
	}
	parent := m.parents[pos.Timeline]
	if parent.Timeline != 0 && parent.Seq == pos.Seq {
		return m.at(parent)
	}
	a := m.attempt
	if a != nil && a.images != nil && (pos.Timeline == m.tip.Timeline || parent == m.tip) && pos.Seq > m.tip.Seq && pos.Seq <= m.tip.Seq+Seq(len(a.images)) {
		return a.images[pos.Seq-m.tip.Seq-1], true
	}
	if a == nil || a.image == nil || pos.Timeline != m.tip.Timeline && parent != m.tip {
		return nil, false
	}
	switch behind := pos.Seq - m.tip.Seq; {
	case a.grown == nil && behind == 1, a.grown != nil && behind == 2:
		return a.image, true
	case behind == 1:
		return a.grown, true
	}
	return nil, false
}

// descends reports whether the state at pos has the state at from as its past.
func (m *model) descends(pos, from Position) bool {
	for pos.Timeline != from.Timeline {
		parent, ok := m.parents[pos.Timeline]
		if !ok || parent.Timeline == 0 {
			return false
		}
		pos = parent
	}
	return pos.Seq >= from.Seq
}

// check compares a store that was opened after a crash with the model. lossy
// is false when only the process died: then nothing at all may be missing.
func (m *model) check(t *testing.T, s *Store, lossy bool) {
	t.Helper()
	m.learn(s)
	m.checkTip(t, s, lossy)
	for _, pos := range m.past {
		m.checkView(t, s, pos, lossy)
	}
	m.checkPins(t, s)
	m.checkPoints(t, s, lossy)
	if size := s.SizeBytes(); size != m.size && (m.attempt == nil || size != m.attempt.size) {
		t.Fatalf("volume has %d bytes, want %d", size, m.size)
	}
}

func (m *model) checkTip(t *testing.T, s *Store, lossy bool) {
	t.Helper()
	tip := s.Tip()
	image, ok := m.at(tip)
	if !ok {
		t.Fatalf("recovered tip %s was never appended; the model's is %s", tip, m.tip)
	}
	if live := readAll(t, s, s.SizeBytes()); !sameImage(live, image) {
		t.Fatalf("live content at %s differs from the model in sector %d", tip, firstDifference(live, image))
	}
	if size, err := s.SizeAt(tip); err != nil || size != int64(len(image)) {
		t.Fatalf("volume has %d bytes at %s, want %d (%v)", size, tip, len(image), err)
	}
	if s.Durable() != tip {
		t.Fatalf("recovered tip %s, durable only %s", tip, s.Durable())
	}
	parent := m.parents[tip.Timeline]
	switch {
	case tip.Timeline == m.tip.Timeline:
		if !lossy && tip.Seq < m.tip.Seq {
			t.Fatalf("recovered %s, want %s: a killed process loses nothing", tip, m.tip)
		}
	case m.attempt != nil && (parent == m.attempt.fork || parent == m.tip):
	default:
		t.Fatalf("recovered on %s, want on timeline %s", tip, m.tip.Timeline)
	}
}

func (m *model) checkView(t *testing.T, s *Store, pos Position, lossy bool) {
	t.Helper()
	v, err := s.View(pos)
	if err != nil {
		if errors.Is(err, ErrThinned) && m.mayBeThinned(pos) {
			m.checkNeighbours(t, s, pos, err)
			return
		}
		if (m.durable[pos] || !lossy) && m.descends(pos, s.Horizon()) {
			t.Fatalf("position %s inside the horizon %s is lost: %v", pos, s.Horizon(), err)
		}
		if !errors.Is(err, ErrHorizon) && !errors.Is(err, ErrUnknownPosition) {
			t.Fatalf("open %s: %v", pos, err)
		}
		return
	}
	defer v.Close()
	if v.SizeBytes() != int64(len(m.images[pos])) {
		t.Fatalf("view at %s has %d bytes, want %d", pos, v.SizeBytes(), len(m.images[pos]))
	}
	if got := readAll(t, v, v.SizeBytes()); !sameImage(got, m.images[pos]) {
		t.Fatalf("view at %s differs from the model in sector %d", pos, firstDifference(got, m.images[pos]))
	}
}

func (m *model) checkPins(t *testing.T, s *Store) {
	t.Helper()
	pins := s.Pins()
	for name, at := range m.pins {
		if m.attempt != nil && (m.attempt.pin == name || m.attempt.drain) {
			continue
		}
		if pins[name] != at {
			t.Fatalf("pin %q is at %s, want %s", name, pins[name], at)
		}
		if !m.descends(at, s.Horizon()) {
			t.Fatalf("horizon %s passed the pin %q at %s", s.Horizon(), name, at)
		}
	}
	for name := range pins {
		if _, known := m.pins[name]; !known && (m.attempt == nil || m.attempt.pin != name) {
			t.Fatalf("pin %q was never made, or undone", name)
		}
	}
}

func (m *model) checkPoints(t *testing.T, s *Store, lossy bool) {
	t.Helper()
	path, found := s.Path(), map[CheckpointNumber]Position{}
	for _, c := range s.Checkpoints() {
		found[c.Number] = c.Position
	}
	for number, pos := range m.points {
		// The state at the horizon can be opened, but its record is gone.
		inside := path.Contains(pos) && pos != s.Horizon() && (m.durable[pos] || !lossy) && !m.mayBeThinned(pos)
		if inside && found[number] != pos {
			t.Fatalf("checkpoint %d at %s is lost", number, pos)
		}
	}
}

// sameImage compares contents of which one may have grown.
func sameImage(a, b []byte) bool { return firstDifference(a, b) < 0 }

func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	for at := 0; at < n; at += SectorBytes {
		if !bytes.Equal(a[at:at+SectorBytes], b[at:at+SectorBytes]) {
			return at / SectorBytes
		}
	}
	for _, rest := range [][]byte{a[n:], b[n:]} {
		if i := slices.IndexFunc(rest, func(c byte) bool { return c != 0 }); i >= 0 {
			return (n + i) / SectorBytes
		}
	}
	return -1
}

// resume makes the model that of a store that was opened after a crash: what
// was lost never happened, and what is there is durable.
func (m *model) resume(s *Store) {
	m.learn(s)
	tip := s.Tip()
	image, _ := m.at(tip)
	kept := m.past[:0]
	for _, pos := range m.past {
		if v, err := s.View(pos); err == nil {
			kept = append(kept, pos)
			m.durable[pos] = true
			_ = v.Close()
			continue
		}
		delete(m.images, pos)
		delete(m.durable, pos)
	}
	m.past = kept
	if _, known := m.images[tip]; !known {
		m.past = append(m.past, tip)
	}
	m.images[tip], m.durable[tip] = image, true
	m.tip, m.size, m.volatile, m.attempt = tip, s.SizeBytes(), nil, nil
	m.pins = s.Pins()
	for number, at := range m.points { // those of other timelines stay
		if _, known := m.images[at]; !known {
			delete(m.points, number)
			delete(m.times, number)
		}
	}
	for _, c := range s.Checkpoints() {
		m.points[c.Number], m.times[c.Number] = c.Position, c.Time
	}
}

// clone is a model that can go another way.
func (m *model) clone() *model {
	c := *m
	c.images, c.parents, c.durable = maps.Clone(m.images), maps.Clone(m.parents), maps.Clone(m.durable)
	c.pins, c.points, c.times = maps.Clone(m.pins), maps.Clone(m.points), maps.Clone(m.times)
	c.past, c.volatile = slices.Clone(m.past), slices.Clone(m.volatile)
	return &c
}

// randomExtent chooses whole sectors inside the volume.
func randomExtent(rng *rand.Rand, size int64, maxSectors int) (off, length int64) {
	sectors := min(int64(1+rng.IntN(maxSectors)), size/SectorBytes)
	return rng.Int64N(size/SectorBytes-sectors+1) * SectorBytes, sectors * SectorBytes
}

func randomBytes(rng *rand.Rand, n int64) []byte {
	p := make([]byte, n)
	for i := 0; i < len(p); i += 8 {
		word := rng.Uint64()
		for j := range min(8, len(p)-i) {
			p[i+j] = byte(word >> (8 * j))
		}
	}
	return p
}
