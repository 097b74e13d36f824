package site

import (
	"context"
	"fmt"
	"math/rand/v2"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// Peer is how to reach another site.
type Peer struct {
	Address string
	Conn    grpc.ClientConnInterface
	// Limiter bounds what is sent there by all groups; nil: unlimited.
	Limiter *rate.Limiter
	// Compress compresses what is sent there.
	Compress bool
}

// replicator implements groups.Replicator: this process sends.
type replicator struct{ *Site }

// Replicate implements groups.Replicator.
func (s replicator) Replicate(st group.State) (groups.Replication, error) {
	if st.Settings.ReplicateTo == "" {
		return nil, nil
	}
	peer, ok := s.cfg.Peers[st.Settings.ReplicateTo]
	if !ok {
		s.cfg.Log.Error("group is to be replicated to a site that is no peer of this one", "group", st.Name, "peer", st.Settings.ReplicateTo)
		return nil, nil
	}
	return replication.NewSender(replication.SenderConfig{
		Group: st.Name, Peer: st.Settings.ReplicateTo, Conn: peer.Conn, Sources: sources(s), Groups: s.groups.Standings(),
		Clock: s.cfg.Clock, Random: rand.Float64, Compress: peer.Compress, Limiter: peer.Limiter, Log: s.cfg.Log,
	})
}

// Tell implements groups.Replicator.
func (s replicator) Tell(ctx context.Context, site string, a replication.Announcement) error {
	peer, ok := s.cfg.Peers[site]
	if !ok {
		return fmt.Errorf("site %s is no peer of this one", site)
	}
	return replication.AnnounceOnce(ctx, peer.Conn, site, a)
}

// sources implements replication.Sources.
type sources struct{ *Site }

// Announcement implements replication.Sources.
func (s sources) Announcement(ctx context.Context, name string) (replication.Announcement, error) {
	return s.groups.Announcement(ctx, name)
}

// Source implements replication.Sources.
func (s sources) Source(_ context.Context, _ string, id journal.VolumeID) (replication.SourceStore, error) {
	eng, err := s.engineOf(id)
	if err != nil {
		return nil, err
	}
	return replication.OpenSource(eng.Store()), nil
}
