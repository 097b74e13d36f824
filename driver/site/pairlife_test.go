package site_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

const (
	lifeSectors = 12
	lifeSteps   = 120
	lifeSeeds   = 6
)

// volumeImage is what the first sectors of a volume hold, each one number.
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

// life is two sites of one group, and what each moment of it has to hold: the history of an
// application that writes to one of them, whatever becomes of the sites.
type life struct {
	t       *testing.T
	ctx     context.Context
	rng     *rand.Rand
	sites   map[string]*lifeSite
	primary string // the site that the application writes to
	next    uint32 // number that is written next

	live   cut
	maybe  cut // what the call has written that failed; nil: nothing
	past   []cut
	points map[pointKey]cut
	era    int                     // rises whenever points are given up: by a failover, a rewind, an undo
	pins   map[string]*group.Point // on the primary, of the timeline that it is on
	eras   map[pointKey]int        // in which each point was taken
	back   cut                     // what an undo returns to; nil: no rewind is open
	// promoting is the site that a failover to has failed; begun what a rewind that failed would
	// be undone to.
	promoting string
	giveUp    bool   // the way back, which a commit that failed began to
	deleting  string // the site that has not deleted volumeC yet, as it was told to
	begun     cut
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
}

func newLife(t *testing.T, seed uint64) *life {
	t.Helper()
	l := &life{t: t, rng: rand.New(rand.NewPCG(seed, 3)), primary: "a", next: 1, live: cut{}, points: map[pointKey]cut{}, eras: map[pointKey]int{}, pins: map[string]*group.Point{}, counts: map[string]int{}, sites: map[string]*lifeSite{}}
	var cancel func()
	l.ctx, cancel = context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	for _, name := range []string{"a", "b"} {
		l.sites[name] = &lifeSite{name: name, peer: string(rune('a' + 'b' - name[0])), disk: vfs.NewMem()}
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
	opening, err := site.Open(l.ctx, site.Config{Name: s.name, Root: "/root", FS: s.fault, Exports: ex, SegmentBytes: journal.MinSegmentBytes,
		Peers: map[string]site.Peer{s.peer: {Conn: conn}}, Log: slog.New(slog.DiscardHandler)})
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

// failed sorts the error of a call: one of a disk that is gone ends the site, and the call
// may have been carried out or not.
func (l *life) failed(s *lifeSite, what string, err error, allowed ...error) {
	l.t.Helper()
	l.logf("%s: %v", what, err)
	if s.fault.Crashed() || slices.ContainsFunc(allowed, func(target error) bool { return errors.Is(err, target) }) {
		return
	}
	l.fatalf("%s: %v", what, err)
}

func (l *life) join(id journal.VolumeID) {
	s := l.main()
	settings := quiet()
	settings.ReplicateTo, settings.JournalBytes = s.peer, 4*journal.MinSegmentBytes
	next := maps.Clone(l.live)
	next[id] = volumeImage{}
	l.maybe = next
	err := s.opened.CreateVolume(l.ctx, site.NewVolume{ID: id, Name: fmt.Sprintf("volume-%d", id[0]), SizeBytes: volumeBytes, Group: "shop", Settings: settings})
	if err != nil {
		l.failed(s, "create "+id.String(), err, journal.ErrExists, group.ErrRole) // kept for its points, or nothing of it had arrived
		return
	}
	l.maybe = nil
	l.logf("volume %d is made", id[0])
	l.enter(next)
}

// write writes to some members, one after the other.
func (l *life) write() {
	s := l.main()
	for range 1 + l.rng.IntN(6) {
		ids := slices.SortedFunc(maps.Keys(l.live), func(a, b journal.VolumeID) int { return bytes.Compare(a[:], b[:]) })
		id, sector, value := ids[l.rng.IntN(len(ids))], l.rng.IntN(lifeSectors), l.next
		l.next++
		image := l.live[id]
		image[sector] = value
		after := maps.Clone(l.live)
		after[id] = image
		dev := s.opened.exports.device(id)
		if dev == nil {
			if s.fault.Crashed() {
				return
			}
			l.fatalf("volume %d of the primary is not open", id[0])
		}
		l.maybe = after
		if err := dev.WriteAt(l.ctx, bytes.Repeat(binary.LittleEndian.AppendUint32(nil, value), 128), int64(sector)*512, true); err != nil {
			l.failed(s, "write", err)
			return
		}
		l.maybe = nil
		l.enter(after)
	}
}

func (l *life) take() {
	s := l.main()
	p, _, err := s.opened.Groups().TakePoint(l.ctx, "shop", "")
	if err != nil {
		l.failed(s, "take a point", err)
		return
	}
	l.note(&p, "taken")
}

// leave says that points, and what is pinned of them, may be left behind.
func (l *life) leave() {
	l.era++
	clear(l.pins)
}

// note says that a point is of the present.
func (l *life) note(p *group.Point, what string) {
	l.logf("%s: point %d of site %s", what, p.Checkpoint, l.primary)
	if was, known := l.points[keyOf(p)]; known && !was.agrees(l.live) {
		l.fatalf("point %d is taken twice", p.Checkpoint)
	}
	l.points[keyOf(p)], l.eras[keyOf(p)] = l.live, l.era
	l.counts["points"]++
}

// churn writes what nobody looks at, so that history leaves the journal.
func (l *life) churn() {
	s := l.main()
	for id := range l.live {
		dev := s.opened.exports.device(id)
		for i := range 6 {
			if dev == nil {
				return
			}
			if err := dev.WriteAt(l.ctx, bytes.Repeat([]byte{byte(l.next)}, 64<<10), int64(1+i)<<20, false); err != nil {
				l.failed(s, "write much", err)
				return
			}
		}
	}
}

// pin keeps a point, or drops what is kept.
func (l *life) pin() {
	s := l.main()
	if len(l.pins) > 2 || len(l.pins) > 0 && l.rng.IntN(3) == 0 {
		name := slices.Min(slices.Collect(maps.Keys(l.pins)))
		delete(l.pins, name)
		if err := s.opened.DropPin(l.ctx, "shop", name); err != nil {
			l.failed(s, "drop a pin", err)
			return
		}
		l.logf("pin %s is dropped", name)
		return
	}
	points, err := s.opened.Groups().Points(l.ctx, "shop")
	if err != nil {
		l.failed(s, "list points", err)
		return
	}
	if len(points) == 0 {
		return
	}
	name, at := fmt.Sprintf("pin-%d", l.next), points[l.rng.IntN(len(points))].Checkpoint
	l.next++
	p, err := s.opened.Groups().PinPoint(l.ctx, "shop", name, strconv.FormatUint(uint64(at), 10))
	if err != nil {
		l.failed(s, "pin", err, group.ErrNoPoint)
		return
	}
	l.logf("point %d of site %s is pinned as %s", at, s.name, name)
	l.pins[name] = &p
	l.counts["pins"]++
}

// checkPins opens what is pinned on the primary.
func (l *life) checkPins() {
	l.t.Helper()
	s := l.main()
	for name, p := range l.pins {
		v, err := s.opened.OpenView(l.ctx, "shop", "pin:"+name)
		if err != nil {
			l.failed(s, "open pin "+name, err)
			return
		}
		if keyOf(&v.Point) != keyOf(p) {
			l.fatalf("pin %s keeps point %d, want %d", name, v.Point.Checkpoint, p.Checkpoint)
		}
		if err := s.opened.CloseView(v.ID); err != nil {
			l.fatalf("close a view: %v", err)
		}
		l.read(s, p)
	}
}

// member makes a third volume, or deletes it.
func (l *life) member() {
	s := l.main()
	if _, there := l.live[volumeC]; !there && l.deleting != s.name {
		l.join(volumeC)
		return
	}
	if l.back != nil {
		return // what an undo returns to has it
	}
	next := maps.Clone(l.live)
	delete(next, volumeC)
	l.deleting = s.name
	if err := s.opened.DeleteVolume(l.ctx, volumeC); err != nil {
		l.failed(s, "delete", err)
		return
	}
	l.logf("volume %d is deleted", volumeC[0])
	l.deleting = ""
	l.enter(next)
	l.counts["deletions"]++
}

// rewind goes back to any point, or ends an open rewind.
func (l *life) rewind() {
	s := l.main()
	g := s.opened.Groups()
	if l.back != nil {
		l.endRewind(g)
		return
	}
	points, err := g.Points(l.ctx, "shop")
	if err != nil {
		l.failed(s, "list points", err)
		return
	}
	if len(points) == 0 {
		return
	}
	p := &points[l.rng.IntN(len(points))]
	if _, known := l.points[keyOf(p)]; !known { // whoever took it was not told
		c, ok := l.read(s, p)
		if !ok {
			return
		}
		l.points[keyOf(p)] = c
	}
	r, err := g.StartRewind(l.ctx, "shop", strconv.FormatUint(uint64(p.Checkpoint), 10), false)
	if err != nil {
		l.maybe, l.begun = l.expectAt(p), l.live
		l.failed(s, "rewind", err, group.ErrNoPoint)
		return
	}
	l.note(&r.From, "before a rewind")
	l.logf("rewound to %d", r.To.Checkpoint)
	l.back, l.giveUp = l.live, false
	l.leave()
	l.goTo(&r.To)
	l.counts["rewinds"]++
}

func (l *life) endRewind(g *groups.Groups) {
	s := l.main()
	if l.rng.IntN(2) == 0 || l.giveUp { // what was to be given up may be gone
		l.giveUp = true
		if _, err := g.CommitRewind(l.ctx, "shop", false); err != nil {
			l.failed(s, "commit", err)
			return
		}
		l.logf("rewind committed")
		l.back = nil
		return
	}
	if image, made := l.live[volumeC]; made {
		l.back = maps.Clone(l.back)
		if _, had := l.back[volumeC]; !had {
			l.back[volumeC] = image
		}
	}
	l.maybe = l.back
	if _, err := g.UndoRewind(l.ctx, "shop", false); err != nil {
		l.failed(s, "undo", err)
		return
	}
	l.logf("rewind undone")
	l.maybe = nil
	l.enter(l.back)
	l.back = nil
	l.leave()
	l.counts["undos"]++
}

// expectAt is what the members hold at a point; those that it does not have keep what they hold.
func (l *life) expectAt(p *group.Point) cut {
	known, c := l.points[keyOf(p)], maps.Clone(l.live)
	for id := range c {
		if image, ok := known[id]; ok && p.Members[id] != (journal.Position{}) {
			c[id] = image
		}
	}
	return c
}

func (l *life) goTo(p *group.Point) {
	l.maybe = nil
	l.enter(l.expectAt(p))
	l.check()
}

// moved has the application go on with what the new primary has: which members that are is
// what the other site had told. Those of the point hold what they held there.
func (l *life) moved(p *group.Point) {
	l.t.Helper()
	s := l.main()
	st, err := s.opened.Groups().State("shop")
	if err != nil {
		l.failed(s, "state", err)
		return
	}
	known, next := l.points[keyOf(p)], cut{}
	for _, id := range st.Members {
		dev := s.opened.exports.device(id)
		if _, its := p.Members[id]; dev == nil && !its {
			continue // nothing of it had arrived
		} else if dev == nil {
			l.failed(s, "look for a device", fmt.Errorf("volume %d is not open", id[0]))
			return
		}
		image, ok := l.imageOf(s, dev)
		if !ok {
			l.promoting = s.name // it is looked at again when it is back
			return
		}
		next[id] = image
	}
	atPoint := maps.Clone(next)
	maps.DeleteFunc(atPoint, func(id journal.VolumeID, _ volumeImage) bool { return p.Members[id] == journal.Position{} })
	if known != nil && !atPoint.agrees(known) || known == nil && !slices.ContainsFunc(l.past, atPoint.agrees) {
		l.fatalf("site %s holds %v at point %d, want %v", s.name, atPoint, p.Checkpoint, known)
	}
	l.maybe = nil
	l.enter(next)
}

// failover has the application go on at the other site.
func (l *life) failover() {
	s := l.sites[l.main().peer]
	if s.opened == nil || s.fault.Crashed() {
		return
	}
	g := s.opened.Groups()
	st, err := g.State("shop")
	if err != nil || st.Role != group.RoleReplica {
		return
	}
	newest, err := g.NewestPoint(l.ctx, "shop")
	if err != nil {
		l.failed(s, "look for the newest point", err)
		return
	}
	out, err := g.Failover(l.ctx, "shop", "latest", false)
	if err != nil {
		l.failed(s, "failover", err, group.ErrNoPoint)
		if !errors.Is(err, group.ErrNoPoint) {
			l.promoting = s.name
		}
		return
	}
	l.logf("failover to %s at %d of %d members, term %d", s.name, out.Point.Checkpoint, len(out.Point.Members), out.Term)
	if newest != nil && out.Point.Checkpoint < newest.Checkpoint && l.eras[keyOf(newest)] == l.era {
		l.fatalf("failed over to point %d where %d was there", out.Point.Checkpoint, newest.Checkpoint)
	}
	l.primary, l.back = s.name, nil
	l.leave()
	l.counts["failovers"]++
	l.moved(&out.Point)
}

// imageOf reads a member of a site; false if that has crashed.
func (l *life) imageOf(s *lifeSite, dev engine.Device) (image volumeImage, ok bool) {
	l.t.Helper()
	p := make([]byte, lifeSectors*512)
	if err := dev.ReadAt(l.ctx, p, 0); err != nil {
		l.failed(s, "read", err)
		return image, false
	}
	for i := range image {
		sector := p[i*512 : (i+1)*512]
		image[i] = binary.LittleEndian.Uint32(sector)
		if !bytes.Equal(sector, bytes.Repeat(sector[:4], 128)) {
			l.fatalf("sector %d is torn", i)
		}
	}
	return image, true
}

// present is what the members hold on the primary; false if that has crashed.
func (l *life) present() (c cut, ok bool) {
	l.t.Helper()
	c = cut{}
	for id := range l.live {
		dev := l.main().opened.exports.device(id)
		if dev == nil {
			v, err := l.main().opened.Volume(id)
			if l.main().fault.Crashed() {
				return c, false
			}
			l.fatalf("volume %d of site %s is not open: %+v, %v", id[0], l.primary, v, err)
		}
		if c[id], ok = l.imageOf(l.main(), dev); !ok {
			return c, false
		}
	}
	return c, true
}

// check compares what the members hold with what the application has written.
func (l *life) check() {
	l.t.Helper()
	if c, ok := l.present(); ok && !c.agrees(l.live) {
		l.fatalf("site %s holds %v, want %v", l.primary, c, l.live)
	}
}

// read reads a recovery point, which has to be a moment that there was; false if it is not there
// any more: the site has crashed, or follows another primary, or has given the point up.
func (l *life) read(s *lifeSite, p *group.Point) (c cut, ok bool) {
	l.t.Helper()
	v, err := s.opened.OpenView(l.ctx, "shop", strconv.FormatUint(uint64(p.Checkpoint), 10))
	if err != nil {
		allowed := []error{group.ErrNoPoint}
		if s.name != l.primary {
			allowed = append(allowed, site.ErrNotFound, groups.ErrInUse) // an image is being taken
		}
		l.failed(s, fmt.Sprintf("open point %d of site %s", p.Checkpoint, s.name), err, allowed...)
		return nil, false
	}
	p = &v.Point // another primary's, perhaps, by now
	c = cut{}
	for _, id := range v.Members {
		dev, err := s.opened.ViewDevice(v.ID, id)
		if err != nil {
			l.fatalf("volume %d of point %d: %v", id[0], p.Checkpoint, err)
		}
		if c[id], ok = l.imageOf(s, dev); !ok {
			return nil, false
		}
	}
	if err := s.opened.CloseView(v.ID); err != nil {
		l.fatalf("close a view: %v", err)
	}
	if known, ok := l.points[keyOf(p)]; ok {
		if !c.agrees(known) {
			l.fatalf("point %d of site %s holds %v, and held %v when it was taken", p.Checkpoint, s.name, c, known)
		}
	} else if !slices.ContainsFunc(l.past, c.agrees) {
		l.fatalf("point %d of site %s is of a moment that never was: %v", p.Checkpoint, s.name, c)
	}
	l.counts["read"]++
	return c, true
}

// checkPoints reads some points of each site.
func (l *life) checkPoints() {
	for _, name := range []string{"a", "b"} {
		s := l.sites[name]
		if s.opened == nil || s.fault.Crashed() {
			continue
		}
		points, err := s.opened.Groups().Points(l.ctx, "shop")
		if errors.Is(err, group.ErrNotFound) {
			continue
		}
		if err != nil {
			l.failed(s, "list points", err)
			continue
		}
		for range min(2, len(points)) {
			l.read(s, &points[l.rng.IntN(len(points))])
		}
	}
}

// crash ends a site as a power loss does, or a kill, or in order, and starts it again.
func (l *life) crash(s *lifeSite) {
	if s.opened != nil {
		err := s.stop()
		crashed := s.fault.Crashed() // then, perhaps
		power := crashed && l.rng.IntN(2) == 0
		if err != nil && !crashed {
			l.fatalf("stop site %s: %v", s.name, err)
		}
		s.shut()
		switch {
		case power:
			s.disk = s.disk.Crash(l.rng)
		case crashed:
			s.disk = s.disk.KillClone()
		}
		l.logf("site %s ended: crashed %t, power lost %t", s.name, crashed, power)
	}
	if err := l.start(s); err != nil {
		l.fatalf("start site %s: %v", s.name, err)
	}
	l.counts["starts"]++
	l.settle(s)
}

// settle finds out what became of calls that failed.
func (l *life) settle(s *lifeSite) {
	l.t.Helper()
	st, err := s.opened.Groups().State("shop")
	if errors.Is(err, group.ErrNotFound) {
		return
	}
	if err != nil {
		l.fatalf("state of site %s: %v", s.name, err)
	}
	if st.Pending != nil {
		l.fatalf("site %s has not finished %+v", s.name, st.Pending)
	}
	if l.promoting == s.name {
		l.promoting = ""
		if st.Role != group.RolePrimary {
			return
		}
		l.primary, l.back, l.maybe = s.name, nil, nil
		l.leave()
		l.moved(&group.Point{Members: s.placesOf(st.Members)})
		return
	}
	if s.name != l.primary || st.Role == group.RoleReplica && l.promoting == s.peer {
		return
	}
	if st.Role != group.RolePrimary {
		l.fatalf("site %s is a %s at term %d, and nobody was promoted", s.name, st.Role, st.Term)
	}
	c := cut{}
	for _, id := range st.Members {
		if dev := s.opened.exports.device(id); dev != nil {
			c[id], _ = l.imageOf(s, dev)
		}
	}
	_, first := c[volumeA]
	_, second := c[volumeB]
	if !first || !second || !c.agrees(l.live) && (l.maybe == nil || !c.agrees(l.maybe)) {
		l.fatalf("site %s came back with %v, want %v or %v", s.name, c, l.live, l.maybe)
	}
	l.enter(c)
	l.maybe = nil
	l.leave()
	switch {
	case st.Rewind == nil:
		l.back = nil
	case l.back == nil:
		l.back = l.begun
	}
}

// arrives reports whether the other site comes to have a point as its newest one.
func (l *life) arrives(p *group.Point, within time.Duration) bool {
	other := l.sites[l.main().peer]
	tick, end := time.NewTicker(2*time.Millisecond), time.After(within)
	defer tick.Stop()
	for other.opened != nil && !other.fault.Crashed() {
		if has, err := other.opened.Groups().NewestPoint(l.ctx, "shop"); err == nil && has != nil && keyOf(has) == keyOf(p) {
			return true
		}
		select {
		case <-tick.C:
		case <-end:
			return false
		}
	}
	return false
}

// catchUp gives the other site time to have what there is, if it can.
func (l *life) catchUp() {
	p, err := l.main().opened.Groups().NewestPoint(l.ctx, "shop")
	if err != nil || p == nil || !l.arrives(p, time.Second) {
		return
	}
	l.logf("site %s has point %d", l.main().peer, p.Checkpoint)
	l.counts["arrivals"]++
}

// placesOf are those of a point of which only the members are known: what is open, for of
// the third volume nothing may have arrived.
func (s *lifeSite) placesOf(ids []journal.VolumeID) map[journal.VolumeID]journal.Position {
	places := map[journal.VolumeID]journal.Position{}
	for _, id := range ids {
		if id != volumeC || s.opened.exports.device(id) != nil {
			places[id] = journal.Position{Seq: 1}
		}
	}
	return places
}

// step is one thing that happens.
func (l *life) step() {
	s := l.sites[string(rune('a'+l.rng.IntN(2)))]
	switch n := l.rng.IntN(100); {
	case n < 6:
		s.fault.CrashAt(s.fault.Count() + 1 + l.rng.Int64N(60))
		l.logf("site %s is going to crash", s.name)
	case n < 10 || s.fault.Crashed():
		l.crash(s)
	case n < 14:
		s.setApart(true)
		l.logf("nobody gets to site %s", s.name)
	case n < 22:
		s.setApart(false)
		l.logf("site %s can be reached", s.name)
	case n < 28:
		l.failover()
	case n < 34:
		l.checkPoints()
	case !l.serves():
		l.crash(l.main())
	case n < 37:
		l.catchUp()
	case n < 64:
		l.write()
	case n < 78:
		l.take()
	case n < 84:
		l.churn()
	case n < 90:
		l.rewind()
	case n < 92:
		l.member()
	case n < 94:
		l.check()
	case n < 97:
		l.pin()
	default:
		l.checkPins()
	}
}

// end brings the sites together, and goes over to the other one.
func (l *life) end() {
	for _, name := range []string{"a", "b"} {
		s := l.sites[name]
		s.setApart(false)
		s.fault.Mend()
		if s.fault.Crashed() || s.opened == nil {
			l.crash(s)
		}
	}
	l.logf("the end begins")
	l.write()
	p, _, err := l.main().opened.Groups().TakePoint(l.ctx, "shop", "")
	if err != nil {
		l.fatalf("take the last point: %v", err)
	}
	l.note(&p, "last")
	other := l.sites[l.main().peer]
	if !l.arrives(&p, time.Minute) {
		st, err := other.opened.Groups().State("shop")
		l.fatalf("site %s never has the last point: %+v, %v", other.name, st, err)
	}
	l.checkPoints()
	l.failover()
	if l.primary != other.name {
		l.fatalf("site %s could not be failed over to", other.name)
	}
	for _, s := range l.sites {
		if err := s.stop(); err != nil {
			l.fatalf("stop site %s: %v", s.name, err)
		}
	}
}

// TestALifeOfTwoSites has an application write to a group of two sites while these crash, are
// cut off from one another, are failed over to, and rewind, and pins and a third volume come and go.
// All that is acknowledged stays, each recovery point on either site is one moment of all
// members, and the newest one that a replica has is what it is failed over to.
// LOCKSTEP_SIM_SEED repeats a seed, as far as the sites' own goroutines let it;
// LOCKSTEP_SIM_SEEDS sets how many there are.
func TestALifeOfTwoSites(t *testing.T) {
	first, last := uint64(1), uint64(lifeSeeds)
	if n, err := strconv.ParseUint(os.Getenv("LOCKSTEP_SIM_SEED"), 10, 64); err == nil {
		first, last = n, n
	} else if n, err := strconv.ParseUint(os.Getenv("LOCKSTEP_SIM_SEEDS"), 10, 64); err == nil {
		last = n
	}
	total := map[string]int{}
	for seed := first; seed <= last; seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			l := newLife(t, seed)
			for range lifeSteps {
				l.step()
			}
			l.end()
			for what, n := range l.counts {
				total[what] += n
			}
		})
	}
	t.Logf("%v", total)
	for _, what := range []string{"points", "rewinds", "failovers", "read", "starts"} {
		if first < last && total[what] == 0 {
			t.Errorf("there were no %s", what)
		}
	}
}
