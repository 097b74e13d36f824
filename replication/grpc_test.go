package replication

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

var volumeOne, volumeTwo = journal.VolumeID{1}, journal.VolumeID{2}

// writeSome writes to a store and makes it durable.
func writeSome(t *testing.T, store *modelStore, records int) {
	t.Helper()
	for i := range records {
		must(t, store.write(journal.KindWrite, int64(i%modelSectors)*journal.SectorBytes, journal.SectorBytes))
	}
	must(t, store.Flush(context.Background()))
}

// maxAhead bounds how far writeOn runs ahead of a replica, and with it the
// memory of its model.
const maxAhead = 20_000

// writeOn writes to a site's stores, never far ahead of the replica's, until
// the returned function is called, which returns when everything written is
// durable.
func (r *rig) writeOn(site, replica string, volumes ...journal.VolumeID) (stop func()) {
	var writers sync.WaitGroup
	ended := make(chan struct{})
	for _, volume := range volumes {
		store := r.sites[site].store(volume)
		writers.Go(func() {
			pace := time.NewTicker(time.Millisecond)
			defer pace.Stop()
			for {
				var held journal.Seq
				if copied := r.sites[replica].store(volume); copied != nil {
					held = copied.Durable().Seq
				}
				if store.Durable().Seq < held+maxAhead {
					writeSome(r.t, store, 10)
				}
				select {
				case <-ended:
					return
				case <-pace.C:
				}
			}
		})
	}
	return func() {
		close(ended)
		writers.Wait()
	}
}

// TestEqualAfterKilledConnections: writes go on while the gateway dies and
// comes back; at the end the replica is the same, byte for byte.
func TestEqualAfterKilledConnections(t *testing.T) {
	for name, compress := range map[string]bool{"plain": false, "compressed": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, volumeOne, volumeTwo)
			gw := r.serve("b", "")
			sender := r.send("a", "b", gw.address, func(c *SenderConfig) { c.Compress = compress })
			stopWriters := r.writeOn("a", "b", volumeOne, volumeTwo)
			const rounds = 6
			for range rounds {
				for _, v := range []journal.VolumeID{volumeOne, volumeTwo} {
					r.advances("b", v, 100)
					gw.stop()
					gw = r.serve("b", gw.address)
				}
			}
			stopWriters()
			r.equal("b", "a", volumeOne)
			r.equal("b", "a", volumeTwo)
			r.until(func() (bool, <-chan struct{}) {
				m := sender.Metrics()
				// A volume that had all of it before the last end of the gateway connects again.
				return len(m.Volumes) == 2 && m.Volumes[0].Connected && m.Volumes[0].LagRecords == 0 && m.Volumes[0].LagTime == 0 && m.Volumes[1].LagRecords == 0, nil
			})
			if m := sender.Metrics().Volumes[0]; m.Streams <= rounds || m.SentRecords == 0 {
				t.Errorf("want more than %d streams, got %+v", rounds, m)
			}
		})
	}
}

// TestSlowPeerNeverBlocksWriter: the replica's disk hangs; the primary writes
// far more than the credit meanwhile, and what is in flight stays bounded.
func TestSlowPeerNeverBlocksWriter(t *testing.T) {
	r := newRig(t, volumeOne)
	gw := r.serve("b", "")
	sender := r.send("a", "b", gw.address, nil)
	writeSome(t, r.sites["a"].store(volumeOne), 1)
	r.equal("b", "a", volumeOne)

	release, entered := make(chan struct{}), make(chan struct{}, 1)
	replica := r.sites["b"].store(volumeOne)
	replica.mu.Lock()
	replica.guard = func() error {
		select {
		case entered <- struct{}{}:
		default:
		}
		<-release
		return nil
	}
	replica.mu.Unlock()
	writeSome(t, r.sites["a"].store(volumeOne), 1)
	<-entered

	const records = 2000 // 1 MB over a credit of 64 KiB
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for range records / 10 {
			writeSome(t, r.sites["a"].store(volumeOne), 10)
		}
	}()
	select {
	case <-wrote:
	case <-time.After(patience):
		t.Error("writer waits for the replica")
	}
	r.until(func() (bool, <-chan struct{}) { return sender.Metrics().Volumes[0].InFlightBytes > 0, nil })
	m := sender.Metrics().Volumes[0]
	if m.InFlightBytes > 64<<10 || m.LagRecords < records || m.LagTime <= 0 || m.LagBytes < records*journal.SectorBytes {
		t.Errorf("want at most 64 KiB in flight and a lag of %d records, got %+v", records, m)
	}
	close(release)
	r.equal("b", "a", volumeOne)
}

// TestDeadPeerNeverBlocksWriter: there is no gateway at all.
func TestDeadPeerNeverBlocksWriter(t *testing.T) {
	r := newRig(t, volumeOne)
	gw := r.serve("b", "")
	gw.stop()
	sender := r.send("a", "b", gw.address, nil)
	writeSome(t, r.sites["a"].store(volumeOne), 500)
	r.until(func() (bool, <-chan struct{}) { return sender.Metrics().LastError != nil, nil })
	if err := sender.stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v, want its context's error", err)
	}
}

// TestFailbackSendsOnlyWhatWasWrittenSince: after a failover the old primary
// gets the records since the fork and nothing else; its own tail stays
// readable.
func TestFailbackSendsOnlyWhatWasWrittenSince(t *testing.T) {
	r := newRig(t, volumeOne)
	a, b := r.sites["a"], r.sites["b"]
	gwB := r.serve("b", "")
	sender := r.send("a", "b", gwB.address, nil)
	writeSome(t, a.store(volumeOne), 400)
	r.equal("b", "a", volumeOne)
	_ = sender.stop()
	writeSome(t, a.store(volumeOne), 50) // never replicated
	lost := a.store(volumeOne).Tip()

	promote(t, gwB.server, b, 7)
	const since = 120
	writeSome(t, b.store(volumeOne), since)

	gwA := r.serve("a", "")
	back := r.send("b", "a", gwA.address, nil)
	r.equal("a", "b", volumeOne)
	if held := a.standing(); held.Role != group.RoleReplica || held.Term != 2 || held.Source != "b" {
		t.Errorf("old primary holds %+v, want a replica of b at term 2", held)
	}
	r.until(func() (bool, <-chan struct{}) { return back.Metrics().Volumes[0].LagRecords == 0, nil })
	m := back.Metrics().Volumes[0]
	if m.SentPayloadBytes != since*journal.SectorBytes || m.SentImageBytes != 0 || a.imports != 0 {
		t.Errorf("failback sent %d payload and %d image bytes, want %d and 0", m.SentPayloadBytes, m.SentImageBytes, since*journal.SectorBytes)
	}
	if !a.store(volumeOne).holds(lost) {
		t.Errorf("old primary's own tail up to %s is gone", lost)
	}
}

// promote does what a site does: fence, raise the term, fork, release.
func promote(t *testing.T, server *Server, site *modelSite, timeline journal.TimelineID) {
	t.Helper()
	release, err := server.Fence(context.Background(), modelGroup)
	must(t, err)
	defer release()
	site.mu.Lock()
	site.held = Standing{Role: group.RolePrimary, Term: site.held.Term + 1}
	site.mu.Unlock()
	for v, store := range site.stores {
		must(t, store.fork(timeline+journal.TimelineID(v[0]), store.Tip(), "failover"))
	}
}

// TestStalePrimaryIsRefusedAndDemotesItself: the old primary still runs when
// its replica is promoted.
func TestStalePrimaryIsRefusedAndDemotesItself(t *testing.T) {
	r := newRig(t, volumeOne)
	gw := r.serve("b", "")
	sender := r.send("a", "b", gw.address, nil)
	writeSome(t, r.sites["a"].store(volumeOne), 20)
	r.equal("b", "a", volumeOne)
	promote(t, gw.server, r.sites["b"], 7)
	tip := r.sites["b"].store(volumeOne).Tip()
	writeSome(t, r.sites["a"].store(volumeOne), 20)

	select {
	case err := <-sender.done:
		sender.done <- err // for the clean-up
		var term *TermError
		if !errors.As(err, &term) || !errors.Is(err, ErrStaleTerm) || term.Held != 2 || term.Owner != "b" {
			t.Errorf("Run returned %v, want term 2 of b", err)
		}
	case <-time.After(patience):
		t.Fatal("stale primary goes on")
	}
	if held := r.sites["a"].standing(); held != (Standing{Role: group.RoleReplica, Term: 2, Source: "b"}) {
		t.Errorf("stale primary holds %+v", held)
	}
	if now := r.sites["b"].store(volumeOne).Tip(); now != tip {
		t.Errorf("promoted store moved from %s to %s", tip, now)
	}
}

// TestImageSyncKeepsOldPoints: while the image is under way the replica's
// store is the old one, and an import that fails changes nothing.
func TestImageSyncKeepsOldPoints(t *testing.T) {
	r := newRig(t, volumeOne)
	gw := r.serve("b", "")
	a, b := r.sites["a"], r.sites["b"]
	sender := r.send("a", "b", gw.address, nil)
	writeSome(t, a.store(volumeOne), 20)
	r.equal("b", "a", volumeOne)
	_ = sender.stop()
	old := b.store(volumeOne)

	writeSome(t, a.store(volumeOne), 20)
	a.store(volumeOne).trim(a.store(volumeOne).Tip())
	b.mu.Lock()
	b.refuse = journal.ErrFull
	b.mu.Unlock()
	sender = r.send("a", "b", gw.address, nil)
	r.until(func() (bool, <-chan struct{}) {
		m := sender.Metrics()
		return len(m.Volumes) == 1 && errors.Is(m.Volumes[0].LastError, journal.ErrFull), nil
	})
	if b.store(volumeOne) != old {
		t.Error("a refused import exchanged the store")
	}
	b.mu.Lock()
	b.refuse = nil
	b.mu.Unlock()
	r.equal("b", "a", volumeOne)
	if b.store(volumeOne) == old {
		t.Error("records came although the journal does not reach back that far")
	}
}

// TestPeerIdentity: without a certificate there is no call, and a site is who
// its certificate says.
func TestPeerIdentity(t *testing.T) {
	r := newRig(t, volumeOne)
	gw := r.serve("b", "")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req := encodeAnnouncement(Announcement{Group: modelGroup, Term: 1})

	anonymous := replicationv1.NewReplicationClient(r.dialWith(gw.address, &tls.Config{InsecureSkipVerify: true}))
	if _, err := anonymous.Announce(ctx, req); status.Code(err) != codes.Unavailable {
		t.Errorf("call without a certificate: %v, want it to fail in the handshake", err)
	}
	self := replicationv1.NewReplicationClient(r.dial("b", "b", gw.address))
	if _, err := self.Announce(ctx, req); status.Code(err) != codes.InvalidArgument {
		t.Errorf("site that sends to itself: %v", err)
	}
	real := replicationv1.NewReplicationClient(r.dial("a", "b", gw.address))
	if _, err := real.Announce(ctx, req); err != nil {
		t.Fatal(err)
	}
	if held := r.sites["b"].standing(); held.Source != "a" {
		t.Errorf("replica follows %q, want a", held.Source)
	}
}

// TestVersionMismatchNamesBoth: over the wire, in both calls.
func TestVersionMismatchNamesBoth(t *testing.T) {
	r := newRig(t, volumeOne)
	gw := r.serve("b", "")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := replicationv1.NewReplicationClient(r.dial("a", "b", gw.address))
	_, announced := client.Announce(ctx, &replicationv1.AnnounceRequest{Version: 9, Group: modelGroup, Term: 1})
	stream, err := client.Replicate(ctx)
	must(t, err)
	must(t, stream.Send(&replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Hello{Hello: &replicationv1.Hello{Version: 9}}}))
	_, streamed := stream.Recv()
	for _, err := range []error{announced, streamed} {
		const want = "peer speaks version 9, this site version 1"
		if err := fromStatus(err, "b", modelGroup, 1); !errors.Is(err, ErrProtocolVersion) || !contains(err, want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, known, _ := r.sites["b"].Standing(ctx, modelGroup); known {
		t.Error("a refused announcement left something behind")
	}
}

// TestRateLimit: a limited sender takes at least as long as the limit says.
func TestRateLimit(t *testing.T) {
	r := newRig(t, volumeOne)
	gw := r.serve("b", "")
	// The burst passes at once; what is behind it is held to the rate.
	const bytesPerSecond = 1 << 20
	limiter := rate.NewLimiter(bytesPerSecond, MaxMessageBytes)
	begin := time.Now()
	limiter.AllowN(begin, MaxMessageBytes)
	r.send("a", "b", gw.address, func(c *SenderConfig) { c.Limiter = limiter })
	const records = 1000
	writeSome(t, r.sites["a"].store(volumeOne), records)
	r.equal("b", "a", volumeOne)
	// The image may have overtaken a part of the records, but not what was
	// written behind it.
	writeSome(t, r.sites["a"].store(volumeOne), records)
	r.equal("b", "a", volumeOne)
	least := time.Duration(records*journal.SectorBytes) * time.Second / bytesPerSecond
	if took := time.Since(begin); took < least {
		t.Errorf("took %v, want at least %v", took, least)
	}
}
