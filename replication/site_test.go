package replication

import (
	"context"
	"errors"
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
	stores   map[journal.VolumeID]*modelStore
	reopen   func(*modelStore) *modelStore // opens a poisoned store again
	imports  int                           // begun
	refuse   error                         // Import's answer, if not nil
	swapped  func(journal.VolumeID)        // told of a committed import
	newest   journal.CheckpointNumber
	followed []Announcement // by change of term
}

func newModelSite(name string, histories map[journal.VolumeID]*history) *modelSite {
	return &modelSite{name: name, history: histories, stores: make(map[journal.VolumeID]*modelStore)}
}

// lead makes the site primary over new, empty stores.
func (s *modelSite) lead(term group.Term, volumes ...journal.VolumeID) {
	s.held, s.known = Standing{Role: group.RolePrimary, Term: term}, true
	for i, v := range volumes {
		s.members = append(s.members, Member{Volume: v, Name: "volume", SizeBytes: modelBytes})
		s.stores[v] = newModelStore(s.history[v], v, journal.TimelineID(i+1))
	}
}

func (s *modelSite) standing() Standing {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
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
func (s *modelSite) open(volume journal.VolumeID) (*modelStore, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := (&Announcement{Members: s.members}).member(volume); !ok {
		return nil, ErrUnknownMember
	}
	store := s.stores[volume]
	if store == nil {
		return nil, ErrNoReplica
	}
	if store.broken != nil {
		store = s.reopen(store)
		s.stores[volume] = store
	}
	return store, nil
}

func (s *modelSite) store(volume journal.VolumeID) *modelStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stores[volume]
}

func (s *modelSite) Import(_ context.Context, _ string, spec ImageSpec) (Import, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return nil, s.refuse
	}
	s.imports++
	return &modelImport{site: s, spec: spec, img: make([]byte, spec.SizeBytes)}, nil
}

type modelImport struct {
	site *modelSite
	spec ImageSpec
	img  []byte
	over bool
}

func (im *modelImport) WriteAt(p []byte, off int64) error {
	if im.over {
		return journal.ErrClosed
	}
	copy(im.img[off:], p)
	return nil
}

func (im *modelImport) Commit(context.Context) (ReplicaStore, error) {
	im.over = true
	store := filledModelStore(im.site.history[im.spec.Volume], im.spec.Volume, im.spec.At, im.spec.Timelines, im.img)
	im.site.mu.Lock()
	defer im.site.mu.Unlock()
	if old := im.site.stores[im.spec.Volume]; old != nil {
		store.guard = old.guard
	}
	im.site.stores[im.spec.Volume] = store
	if im.site.swapped != nil {
		im.site.swapped(im.spec.Volume)
	}
	return store, nil
}

func (im *modelImport) Abort() error {
	im.over = true
	return nil
}
