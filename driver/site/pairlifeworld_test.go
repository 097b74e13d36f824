package site_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

const (
	lifeSectors = 16 // of which the last ones are there when a volume has been expanded
	lifeGrowths = 4
	lifeSteps   = 120
	lifeSeeds   = 6
	agingSeeds  = 5
)

// volumeImage is what some sectors of a volume hold, each one number.
type volumeImage [lifeSectors]uint32

// cut is what all members of a group hold at one moment.
type cut map[journal.VolumeID]volumeImage

// agrees reports whether a cut holds the same as another one, in the members of both.
func (c cut) agrees(other cut) bool {
	for id, image := range c {
		if o, ok := other[id]; ok && o != image {
			return false
		}
	}
	return true
}

// pointKey tells recovery points apart: of two sites that were primary one after the
// other, each may have given out a number.
type pointKey struct {
	number journal.CheckpointNumber
	time   int64
}

func keyOf(p *group.Point) pointKey { return pointKey{p.Checkpoint, p.Time.UnixNano()} }

// kind is what a life is about, beside what all of them are.
type kind struct {
	ages bool // its history becomes old, and thins
}

// length is how many times longer a life is than one of no kind.
func (k kind) length() int {
	if k.ages {
		return 2
	}
	return 1
}

// life is two sites of one group, and what each moment of it has to hold: the history of an
// application that writes to one of them, whatever becomes of the sites.
type life struct {
	kind
	t       *testing.T
	ctx     context.Context
	rng     *rand.Rand
	sites   map[string]*lifeSite
	primary string // the site that the application writes to
	next    uint32 // number that is written next

	live       cut
	maybe      cut // what the call has written that failed; nil: nothing
	past       []cut
	points     map[pointKey]cut
	era        int                                     // rises whenever points are given up: by a failover, a rewind, an undo
	pins       map[string]*group.Point                 // on the primary, of the timeline that it is on
	eras       map[pointKey]int                        // in which each point was taken
	sizes      map[journal.VolumeID]int64              // of the primary's devices, in bytes
	grown      map[journal.VolumeID]int64              // that somebody has asked for
	pointSizes map[pointKey]map[journal.VolumeID]int64 // that the members had there
	back       cut                                     // what an undo returns to; nil: no rewind is open
	// promoting is the site that a failover to has failed; begun what a rewind that failed would
	// be undone to.
	promoting string
	giveUp    bool   // the way back, which a commit that failed began to
	deleting  string // the site that has not deleted volumeC yet, as it was told to
	begun     cut
	keeps     journal.History // by age alone; nil: nobody can tell what is kept
	kept      []*group.Point  // taken while it was so, and the timeline the same
	uneven    time.Time       // the clock when points were last left while volumeC was there: see expectKept
	counts    map[string]int
	trace     []string
}

type lifeSite struct {
	name, peer string
	disk       *vfs.Mem
	fault      *vfs.Fault
	opened     *opened // nil while it is down
	stop       func() error
	mu         sync.Mutex
	entrance   *bufconn.Listener // nil while it is down
	apart      bool              // nobody gets there
	conns      []net.Conn        // from the peer
	forks      map[string]*lifeFork
	clock      *clock.Manual // nil: the machine's
	view       *heldView     // that is open; nil: none
}

func newLife(t *testing.T, seed uint64, k kind) *life {
	t.Helper()
	l := &life{kind: k, t: t, rng: rand.New(rand.NewPCG(seed, 3)), primary: "a", next: 1, live: cut{}, points: map[pointKey]cut{}, eras: map[pointKey]int{}, pins: map[string]*group.Point{},
		sizes: map[journal.VolumeID]int64{}, grown: map[journal.VolumeID]int64{}, pointSizes: map[pointKey]map[journal.VolumeID]int64{},
		counts: map[string]int{}, sites: map[string]*lifeSite{}}
	var cancel func()
	l.ctx, cancel = context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	for _, name := range []string{"a", "b"} {
		l.sites[name] = &lifeSite{name: name, peer: string(rune('a' + 'b' - name[0])), disk: vfs.NewMem(), forks: map[string]*lifeFork{}}
	}
	if l.ages {
		l.startClocks()
	}
	for _, name := range []string{"a", "b"} {
		if err := l.start(l.sites[name]); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range members {
		l.join(id)
	}
	return l
}

func (l *life) logf(format string, args ...any) {
	l.trace = append(l.trace, fmt.Sprintf(format, args...))
}

func (l *life) fatalf(format string, args ...any) {
	l.t.Helper()
	l.t.Fatalf("%s\nwhat happened before:\n%s", fmt.Sprintf(format, args...), strings.Join(l.trace[max(0, len(l.trace)-160):], "\n"))
}

// start opens a site and its entrance.
func (l *life) start(s *lifeSite) error {
	s.fault = vfs.NewFault(s.disk)
	peer := l.sites[s.peer]
	conn, err := grpc.NewClient("passthrough:"+s.peer, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return peer.accept(ctx) }))
	if err != nil {
		return err
	}
	ex := &exports{}
	config := site.Config{Name: s.name, Root: "/root", FS: s.fault, Exports: ex, SegmentBytes: journal.MinSegmentBytes,
		Peers: map[string]site.Peer{s.peer: {Conn: conn}}, Log: slog.New(slog.DiscardHandler)}
	if s.clock != nil {
		config.Clock = s.clock
	}
	opening, err := site.Open(l.ctx, config)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	server, err := replication.NewServer(replication.ServerConfig{
		Site: s.name, Groups: opening.Groups().Standings(), Stores: opening.Replicas(), Peer: func(context.Context) (string, error) { return s.peer, nil }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	opening.Groups().SetFencer(groups.OneProcess(server))
	listener, g := bufconn.Listen(1<<20), grpc.NewServer()
	server.Register(g)
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(listener) })
	s.opened = &opened{opening, ex}
	s.stop = func() error {
		s.shut()
		g.Stop()
		serving.Wait()
		s.opened = nil
		return errors.Join(server.Close(), opening.Close(), conn.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entrance = listener
	return nil
}

// accept connects the peer to a site.
func (s *lifeSite) accept(ctx context.Context) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entrance == nil || s.apart {
		return nil, errors.New("the site cannot be reached")
	}
	conn, err := s.entrance.DialContext(ctx)
	if err == nil {
		s.conns = append(s.conns, conn)
	}
	return conn, err
}

// setApart lets connections to a site come, or ends those that there are.
func (s *lifeSite) setApart(apart bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apart = apart
	if apart {
		s.hangUp()
	}
}

// shut is the end of a site's entrance.
func (s *lifeSite) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entrance = nil
	s.hangUp()
}

func (s *lifeSite) hangUp() {
	for _, conn := range s.conns {
		_ = conn.Close()
	}
	s.conns = nil
}

func (l *life) main() *lifeSite { return l.sites[l.primary] }

// serves reports whether the application can write.
func (l *life) serves() bool {
	s := l.main()
	if s.opened == nil || s.fault.Crashed() {
		return false
	}
	st, err := s.opened.Groups().State("shop")
	return err == nil && st.Role == group.RolePrimary && st.Pending == nil
}

// enter says that the application's data is another from now on.
func (l *life) enter(c cut) {
	l.live = c
	l.past = append(l.past, c)
}
