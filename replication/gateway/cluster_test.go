package gateway

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

const volumeBytes = 1 << 20

// volumeStore is one volume's store in memory, at either site.
type volumeStore struct {
	t      *testing.T
	volume journal.VolumeID
	cfg    journal.Config

	mu    sync.Mutex
	store *journal.Store // guarded by mu; nil until it is filled
}

func newVolumeStore(t *testing.T, volume journal.VolumeID) *volumeStore {
	return &volumeStore{t: t, volume: volume, cfg: journal.Config{FS: vfs.NewMem(), Dir: "store", SegmentBytes: journal.MinSegmentBytes}}
}

// create makes an empty store: a primary's.
func (v *volumeStore) create() {
	v.t.Helper()
	must(v.t, journal.Create(v.cfg, journal.Spec{Volume: v.volume, SizeBytes: volumeBytes}))
	v.open()
}

func (v *volumeStore) open() {
	store, err := journal.Open(v.cfg)
	if err != nil {
		v.t.Error(err)
		return
	}
	v.t.Cleanup(func() { _ = store.Close() })
	v.mu.Lock()
	v.store = store
	v.mu.Unlock()
}

func (v *volumeStore) get() *journal.Store {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.store
}

// write appends durable records.
func (v *volumeStore) write(records int) {
	v.t.Helper()
	store := v.get()
	for i := range records {
		data := make([]byte, 4096)
		for j := range data {
			data[j] = byte(int(store.Tip().Seq) + i + j)
		}
		_, err := store.Write(data, int64(i%(volumeBytes/4096))*4096)
		must(v.t, err)
	}
	must(v.t, store.Flush(context.Background()))
}

// Replica implements replication.ReplicaStores.
func (v *volumeStore) Replica(context.Context, string, journal.VolumeID) (replication.ReplicaStore, error) {
	if store := v.get(); store != nil {
		return store, nil
	}
	return nil, replication.ErrNoReplica
}

// Import implements replication.ReplicaStores.
func (v *volumeStore) Import(_ context.Context, _ string, spec replication.ImageSpec) (replication.Import, error) {
	im, err := journal.NewImport(v.cfg, journal.Spec{Volume: spec.Volume, SizeBytes: spec.SizeBytes}, spec.At, spec.Timelines)
	if err != nil {
		return nil, err
	}
	return &volumeImport{im, v}, nil
}

type volumeImport struct {
	*journal.Import
	into *volumeStore
}

func (im *volumeImport) Commit(context.Context) (replication.ReplicaStore, error) {
	if err := im.Import.Commit(); err != nil {
		return nil, err
	}
	im.into.open()
	return im.into.get(), nil
}

// same reports whether a replica durably holds what a primary does.
func same(t *testing.T, replica, primary *volumeStore) bool {
	a, b := replica.get(), primary.get()
	if a == nil || a.Durable() != b.Durable() {
		return false
	}
	x, y := make([]byte, volumeBytes), make([]byte, volumeBytes)
	must(t, a.ReadAt(x, 0))
	must(t, b.ReadAt(y, 0))
	return string(x) == string(y)
}

// orders is what an engine was ordered; durable as long as the test lives.
type orders struct {
	mu    sync.Mutex
	held  replication.Standing
	fence group.Term
}

func (o *orders) Standing(_ context.Context, name string) (replication.Standing, bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.held.Fenced(o.fence), name == testGroup && max(o.held.Term, o.fence) > 0, nil
}

func (o *orders) Fence(_ context.Context, term group.Term) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fence = max(o.fence, term)
	return nil
}

func (o *orders) set(held replication.Standing) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.held = held
}

// engine starts site b's engine of a volume, and makes it known.
func (r *rig) engine(store *volumeStore, o *orders) (*replication.StreamServer, *process) {
	r.t.Helper()
	server, err := replication.NewStreamServer(replication.StreamServerConfig{Site: "b", Volume: store.volume, Orders: o, Stores: store,
		Peer: behindGateway(), Log: quiet()})
	must(r.t, err)
	p := r.start("", r.inside("engine"), server.Register, func() { must(r.t, server.Close()) })
	r.engines.set(store.volume, p.address)
	return server, p
}

// sender runs site a's engine of a volume at a term until it is stopped.
func (r *rig) sender(store *volumeStore, term group.Term, gateway string) (v *replication.VolumeSender, stop func()) {
	r.t.Helper()
	v, err := replication.NewVolumeSender(replication.VolumeSenderConfig{Group: testGroup, Term: term, Volume: store.volume, Peer: "b", Conn: r.peer(gateway),
		Source: func(context.Context) (replication.SourceStore, error) {
			return replication.OpenSource(store.get()), nil
		},
		Clock: clock.Wall{}, Random: jitter, Compress: true, Log: quiet()})
	must(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				r.t.Errorf("Run returned %v, want its context's error", err)
			}
		})
	}
	r.t.Cleanup(stop)
	return v, stop
}

// TestVolumesThroughGateway: two volumes' engines are fed through a gateway that
// dies and comes back, one of them moves to another address; both end up the
// same as their sources.
func TestVolumesThroughGateway(t *testing.T) {
	r := newRig(t)
	follows := replication.Standing{Role: group.RoleReplica, Term: 1, Source: "a"}
	gw := r.gateway("", r.nobody(), nil)
	var sources, replicas []*volumeStore
	var engines []*process
	o := &orders{}
	for _, volume := range []journal.VolumeID{volumeOne, volumeTwo} {
		source, replica := newVolumeStore(t, volume), newVolumeStore(t, volume)
		source.create()
		_, p := r.engine(replica, o)
		sources, replicas, engines = append(sources, source), append(replicas, replica), append(engines, p)
		v, _ := r.sender(source, 1, gw.address)
		if volume == volumeOne {
			r.until("the engine refuses what was not ordered", func() bool { return errors.Is(v.Metrics().LastError, replication.ErrNotAnnounced) })
			o.set(follows)
		}
	}
	equal := func(what string) {
		t.Helper()
		for i := range sources {
			r.until(what, func() bool { return same(t, replicas[i], sources[i]) })
		}
	}
	equal("both replicas are filled")
	for range 3 {
		for _, s := range sources {
			s.write(300)
		}
		gw.stop()
		gw = r.gateway(gw.address, r.nobody(), nil)
		engines[0].stop()
		_, engines[0] = r.engine(replicas[0], o)
		equal("both replicas have followed")
	}
}

// TestEngineOfAnotherVolume: a stream that reaches the wrong engine, because an
// address was given to another, is refused.
func TestEngineOfAnotherVolume(t *testing.T) {
	r := newRig(t)
	o := &orders{held: replication.Standing{Role: group.RoleReplica, Term: 1, Source: "a"}}
	_, p := r.engine(newVolumeStore(t, volumeTwo), o)
	r.engines.set(volumeOne, p.address)
	gw := r.gateway("", r.nobody(), nil)
	source := newVolumeStore(t, volumeOne)
	source.create()
	v, _ := r.sender(source, 1, gw.address)
	r.until("the stream is refused", func() bool { return errors.Is(v.Metrics().LastError, replication.ErrUnknownMember) })
}

// TestFenceEndsOldTerm: after a fence nothing of the old term is taken, also by
// an engine that was started again; the sender shows by which term it was
// refused; the next term's stream is taken once it is ordered.
func TestFenceEndsOldTerm(t *testing.T) {
	r := newRig(t)
	o := &orders{held: replication.Standing{Role: group.RoleReplica, Term: 1, Source: "a"}}
	replica, source := newVolumeStore(t, volumeOne), newVolumeStore(t, volumeOne)
	source.create()
	engine, p := r.engine(replica, o)
	gw := r.gateway("", r.nobody(), nil)
	v, stop := r.sender(source, 1, gw.address)
	source.write(50)
	r.until("the replica has followed", func() bool { return same(t, replica, source) })

	must(t, engine.Fence(r.within(), 2))
	at := replica.get().Tip()
	source.write(50)
	r.until("the sender is refused", func() bool { return v.Metrics().StaleAgainst == 2 && v.Metrics().Owner == "b" })
	p.stop()
	r.until("the sender finds no engine", func() bool { return v.Metrics().StaleAgainst == 0 })
	engine, _ = r.engine(replica, o)
	streams := v.Metrics().Streams
	r.until("the sender is refused again", func() bool {
		m := v.Metrics()
		return m.StaleAgainst == 2 && errors.Is(m.LastError, replication.ErrStaleTerm)
	})
	if now := replica.get().Tip(); now != at || v.Metrics().Streams != streams {
		t.Errorf("replica moved from %s to %s after the fence", at, now)
	}
	stop()

	next, _ := r.sender(source, 2, gw.address)
	r.until("the next term waits for its order", func() bool { return errors.Is(next.Metrics().LastError, replication.ErrNotAnnounced) })
	must(t, engine.Change(r.within(), func(context.Context) error {
		o.set(replication.Standing{Role: group.RoleReplica, Term: 2, Source: "a"})
		return nil
	}))
	r.until("the replica has followed the next term", func() bool { return same(t, replica, source) })
	if m := next.Metrics(); m.StaleAgainst != 0 || !m.Connected {
		t.Errorf("sender of the next term shows %+v", m)
	}
}

// standings is a controller's durable knowledge of one group.
type standings struct {
	mu       sync.Mutex
	held     replication.Standing
	known    bool
	followed []replication.Announcement
}

func (s *standings) Standing(context.Context, string) (replication.Standing, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held, s.known, nil
}

func (s *standings) Follow(_ context.Context, peer string, a replication.Announcement) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held, s.known = replication.Standing{Role: group.RoleReplica, Term: a.Term, Source: peer}, true
	s.followed = append(s.followed, a)
	return nil
}

func (s *standings) Recognise(context.Context, string, replication.Announcement) error { return nil }

func (s *standings) Ended(context.Context, string, string, group.Term) error {
	return errors.New("the group of the test does not end")
}

func (s *standings) Demote(_ context.Context, _ string, held group.Term, owner string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = replication.Standing{Role: group.RoleReplica, Term: held, Source: owner}
	return nil
}

// Announcement implements replication.Announcements.
func (s *standings) Announcement(context.Context, string) (replication.Announcement, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return replication.Announcement{Group: testGroup, Term: s.held.Term, Members: []replication.Member{
		{Volume: volumeOne, Name: "pgdata", SizeBytes: volumeBytes, Attributes: map[string]string{replication.AttributeName: "pgdata", "later": "kept"}}}}, nil
}

func (s *standings) standing() replication.Standing {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// TestControllers: one site's controller announces to the other's through the
// gateway; while the other holds the group nothing is judged; after it was
// promoted the first one demotes itself.
func TestControllers(t *testing.T) {
	r := newRig(t)
	a, b := &standings{held: replication.Standing{Role: group.RolePrimary, Term: 3}, known: true}, &standings{}
	server, err := replication.NewAnnounceServer(replication.AnnounceServerConfig{Site: "b", Groups: b, Peer: behindGateway()})
	must(t, err)
	options := replication.ServerOptions(r.tls(certs.RoleServerTLS(r.dirs["controller"], certs.RoleGateway)))
	controller := r.start("", options, server.Register, func() {})
	gw := r.gateway("", controller.address, nil)
	announcer, err := replication.NewAnnouncer(replication.AnnouncerConfig{Group: testGroup, Peer: "b", Conn: r.peer(gw.address), Announcements: a, Groups: a,
		Clock: clock.Wall{}, Random: jitter, Heartbeat: time.Hour, Log: quiet()})
	must(t, err)
	done := make(chan error, 1)
	go func() { done <- announcer.Run(r.within()) }()
	r.until("b follows a", func() bool {
		return b.standing() == replication.Standing{Role: group.RoleReplica, Term: 3, Source: "a"} && announcer.Metrics().Term == 3
	})
	if got := b.followed[0].Members[0].Attributes; got["later"] != "kept" || got[replication.AttributeName] != "pgdata" {
		t.Errorf("attributes arrive as %v", got)
	}

	release, err := server.Hold(r.within(), testGroup)
	must(t, err)
	announcer.AnnounceNow() // instead of in an hour
	b.mu.Lock()
	b.held = replication.Standing{Role: group.RolePrimary, Term: 4}
	b.mu.Unlock()
	release()
	if err := <-done; !errors.Is(err, replication.ErrStaleTerm) {
		t.Errorf("Run returned %v, want ErrStaleTerm", err)
	}
	if held := a.standing(); held != (replication.Standing{Role: group.RoleReplica, Term: 4, Source: "b"}) {
		t.Errorf("a holds %+v, want a replica of b at term 4", held)
	}
	// Streams are no business of a controller's.
	r.engines.set(volumeOne, controller.address)
	source := newVolumeStore(t, volumeOne)
	source.create()
	v, _ := r.sender(source, 3, gw.address)
	r.until("a stream to a controller fails", func() bool { return v.Metrics().LastError != nil })
}
