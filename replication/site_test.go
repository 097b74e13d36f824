package replication

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

const modelGroup = "shop"

// modelSite is the durable state of a site: one group with its standing and
// the stores of its members. It implements what this package asks of a site.
type modelSite struct {
	name    string
	history map[journal.VolumeID]*history

	mu       sync.Mutex
	held     Standing
	known    bool
	members  []Member
	stores   map[journal.VolumeID]siteStore
	make     storeMaker
	reopen   func(siteStore) siteStore // opens a poisoned store again
	imports  int                       // begun
	refuse   error                     // Import's answer, if not nil
	busy     error                     // why no store can be replaced now
	swapped  func(journal.VolumeID)    // told of a committed import
	newest   journal.CheckpointNumber
	followed []Announcement // by change of term
	ended    group.Term     // at which the peer said that the group has ended; 0: it has not
}

// siteStore is a store as the tests need it, on both sides of a stream; a
// modelStore or a realStore.
type siteStore interface {
	SourceStore
	ReplicaStore

	// write appends a local change; for KindCheckpoint off is the number and
	// length the time.
	write(kind journal.Kind, off, length int64) error
	// fork is a local Fork; a store may ignore id.
	fork(id journal.TimelineID, at journal.Position, reason string) error
	// holds reports whether a position, on the path or not, can be opened.
	holds(at journal.Position) bool
	// checkpoints are the durable ones on the path, by number and time.
	checkpoints() map[[2]int64]journal.Position
	// verify compares the content with the oracle's at the tip.
	verify() error
	// trim moves the horizon towards a position.
	trim(to journal.Position)
	// crash is the store after a power loss; id is for its own timeline.
	crash(rng *rand.Rand, id journal.TimelineID) siteStore
	// breakNext makes the next flush, or the next append, fail.
	breakNext(flush bool)
	// heal takes back a breakNext that has not come about.
	heal()
	// failure is why the store is poisoned.
	failure() error
	// watch sets what is asked before a peer's records are appended.
	watch(guard func() error)
}

// storeMaker makes the stores of a site.
type storeMaker interface {
	create(volume journal.VolumeID, root journal.TimelineID) siteStore
	fill(spec ImageSpec) (storeFiller, error)
}

// storeFiller is a store that is being filled with an image.
type storeFiller interface {
	WriteAt(p []byte, off int64) error
	finish() (siteStore, error)
	Abort() error
}

func newModelSite(name string, histories map[journal.VolumeID]*history) *modelSite {
	return &modelSite{name: name, history: histories, stores: make(map[journal.VolumeID]siteStore), make: modelMaker{histories}}
}

// lead makes the site primary over new, empty stores.
func (s *modelSite) lead(term group.Term, volumes ...journal.VolumeID) {
	s.held, s.known = Standing{Role: group.RolePrimary, Term: term}, true
	for i, v := range volumes {
		s.members = append(s.members, Member{Volume: v, Name: "volume", SizeBytes: modelBytes})
		s.stores[v] = s.make.create(v, journal.TimelineID(i+1))
	}
}

func (s *modelSite) standing() Standing {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

func (s *modelSite) endedAt() group.Term {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

func (s *modelSite) Standing(context.Context, string) (Standing, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held, s.known, nil
}

func (s *modelSite) Follow(_ context.Context, peer string, a Announcement) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known && (a.Term < s.held.Term || a.Term == s.held.Term && s.held.Role == group.RolePrimary) {
		return &TermError{Kind: ErrStaleTerm, Group: a.Group, Offered: a.Term, Held: s.held.Term, Owner: s.held.Owner(s.name)}
	}
	if !s.known || a.Term > s.held.Term {
		s.followed = append(s.followed, a)
	}
	s.held, s.known = Standing{Role: group.RoleReplica, Term: a.Term, Source: peer}, true
	s.members, s.newest = a.Members, max(s.newest, a.NewestCheckpoint)
	return nil
}

// Recognise knows a group by its members, as long as any of them is left.
func (s *modelSite) Recognise(_ context.Context, _ string, a Announcement) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.members {
		if _, ok := a.member(m.Volume); ok {
			return nil
		}
	}
	if s.known && len(s.members) > 0 {
		return ErrOtherGroup
	}
	return nil
}

func (s *modelSite) Ended(_ context.Context, peer, _ string, term group.Term) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held.Role == group.RoleReplica && s.held.Source == peer && term >= s.held.Term {
		s.ended = term
	}
	return nil
}

func (s *modelSite) Demote(_ context.Context, _ string, held group.Term, owner string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held > s.held.Term {
		s.held = Standing{Role: group.RoleReplica, Term: held, Source: owner}
	}
	return nil
}

func (s *modelSite) Announcement(context.Context, string) (Announcement, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held.Role != group.RolePrimary {
		return Announcement{}, errors.New("site is not primary")
	}
	return Announcement{Group: modelGroup, Term: s.held.Term, Members: s.members, NewestCheckpoint: s.newest}, nil
}

func (s *modelSite) Source(_ context.Context, _ string, volume journal.VolumeID) (SourceStore, error) {
	store, err := s.open(volume)
	if err != nil {
		return nil, err
	}
	return store, nil
}

func (s *modelSite) Replica(_ context.Context, _ string, volume journal.VolumeID) (ReplicaStore, error) {
	store, err := s.open(volume)
	if err != nil {
		return nil, err
	}
	return store, nil
}

// open returns a member's store, recovered if it was poisoned.
func (s *modelSite) open(volume journal.VolumeID) (siteStore, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := (&Announcement{Members: s.members}).member(volume); !ok {
		return nil, ErrUnknownMember
	}
	store := s.stores[volume]
	if store == nil {
		return nil, ErrNoReplica
	}
	if store.failure() != nil {
		store = s.reopen(store)
		s.stores[volume] = store
	}
	return store, nil
}

// store returns a member's modelStore, nil if there is none yet.
func (s *modelSite) store(volume journal.VolumeID) *modelStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	store, _ := s.stores[volume].(*modelStore)
	return store
}

func (s *modelSite) Import(_ context.Context, _ string, spec ImageSpec) (Import, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return nil, s.refuse
	}
	s.imports++
	filler, err := s.make.fill(spec)
	if err != nil {
		return nil, err
	}
	return &siteImport{storeFiller: filler, site: s, volume: spec.Volume}, nil
}

// siteImport puts the filled store in the old one's place.
type siteImport struct {
	storeFiller
	site   *modelSite
	volume journal.VolumeID
}

func (im *siteImport) Commit(context.Context) (ReplicaStore, error) {
	if im.site.busy != nil {
		return nil, im.site.busy
	}
	store, err := im.finish()
	if err != nil {
		return nil, err
	}
	im.site.mu.Lock()
	defer im.site.mu.Unlock()
	im.site.stores[im.volume] = store
	if im.site.swapped != nil {
		im.site.swapped(im.volume)
	}
	return store, nil
}

// modelMaker makes stores in memory.
type modelMaker struct {
	history map[journal.VolumeID]*history
}

func (m modelMaker) create(volume journal.VolumeID, root journal.TimelineID) siteStore {
	return newModelStore(m.history[volume], volume, root)
}

func (m modelMaker) fill(spec ImageSpec) (storeFiller, error) {
	return &modelFiller{history: m.history[spec.Volume], spec: spec, img: make([]byte, spec.SizeBytes)}, nil
}

type modelFiller struct {
	history *history
	spec    ImageSpec
	img     []byte
	over    bool
}

func (f *modelFiller) WriteAt(p []byte, off int64) error {
	if f.over {
		return journal.ErrClosed
	}
	copy(f.img[off:], p)
	return nil
}

func (f *modelFiller) finish() (siteStore, error) {
	f.over = true
	return filledModelStore(f.history, f.spec.Volume, f.spec.At, f.spec.Timelines, f.img), nil
}

func (f *modelFiller) Abort() error {
	f.over = true
	return nil
}
