package enginepod

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"

	"google.golang.org/grpc"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/replication"
)

// sending is what runs to get a primary's records to its peer.
type sending struct {
	peer   control.Peer
	group  string
	term   uint64
	sender *replication.VolumeSender
	conn   *grpc.ClientConn
	stop   context.CancelFunc
	joined sync.WaitGroup
}

// sendTo sends records where orders say, from now on. The turn must be held.
func (p *Pod) sendTo(o control.Orders) error {
	if s := p.sending; s != nil && o.Peer != nil && s.peer == *o.Peer && s.group == o.Group && s.term == o.Term {
		return nil
	}
	p.stopSending()
	if o.Peer == nil {
		return nil
	}
	if p.cfg.DialPeer == nil {
		return fmt.Errorf("send volume %s to site %s: this engine has no certificates for other sites", o.Volume, o.Peer.Site)
	}
	conn, err := p.cfg.DialPeer(o.Peer.Site, o.Peer.Address)
	if err != nil {
		return fmt.Errorf("send volume %s to site %s: %w", o.Volume, o.Peer.Site, err)
	}
	s := &sending{peer: *o.Peer, group: o.Group, term: o.Term, conn: conn}
	s.sender, err = replication.NewVolumeSender(replication.VolumeSenderConfig{
		Group: o.Group, Term: group.Term(o.Term), Volume: o.Volume, Peer: o.Peer.Site, Conn: conn, Source: p.source,
		Clock: p.cfg.Clock, Random: rand.Float64, Compress: true, Log: p.cfg.Log,
	})
	if err != nil {
		_ = conn.Close() // nothing was sent
		return err
	}
	ctx, stop := context.WithCancel(p.ctx)
	s.stop = stop
	s.joined.Go(func() {
		if err := s.sender.Run(ctx); err != nil && ctx.Err() == nil {
			p.cfg.Log.Warn("sending ended", "volume", o.Volume, "peer", o.Peer.Site, "error", err)
		}
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sending = s
	return nil
}

// source is the open store as a sender reads it.
func (p *Pod) source(context.Context) (replication.SourceStore, error) {
	eng, err := p.Engine()
	if err != nil {
		return nil, err
	}
	return replication.OpenSource(eng.Store()), nil
}

// stopSending ends what sendTo began. The turn must be held, or nobody else be
// there any more.
func (p *Pod) stopSending() {
	p.mu.Lock()
	s := p.sending
	p.sending = nil
	p.mu.Unlock()
	if s == nil {
		return
	}
	s.stop()
	s.joined.Wait()
	_ = s.conn.Close() // nothing is left to send
}

// replicationState tells how sending stands; nil when nothing is sent. mu is
// held.
func (p *Pod) replicationState() *control.ReplicationState {
	if p.sending == nil {
		return nil
	}
	m := p.sending.sender.Metrics()
	s := &control.ReplicationState{Peer: p.sending.peer.Site, Connected: m.Connected,
		LagRecords: uint64(m.LagRecords), LagBytes: uint64(m.LagBytes), LagTime: m.LagTime, ImageBytes: m.ImageBytes, ImageSizeBytes: m.ImageSizeBytes}
	if m.LastError != nil && !m.Connected {
		s.Error = m.LastError.Error()
	}
	return s
}
