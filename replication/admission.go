package replication

import (
	"context"
	"errors"
	"fmt"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// admission is the receiving site without its transport: it decides which
// peer may send what, and hands out the state machines that take it.
type admission struct {
	site string
	// standings decides over streams, groups over announcements; where both
	// come to one process they are the same.
	standings Standings
	groups    Groups
	stores    ReplicaStores
	// only is the one volume of an engine; zero: a site's, any of them.
	only        journal.VolumeID
	gate        *gate
	images      *partialImages
	codec       *codec
	creditBytes int64
}

// announce takes an announcement of an authenticated peer. A term that is new
// to this site is adopted, durably, only when no stream of an older one can
// append any more.
func (a *admission) announce(ctx context.Context, peer string, req *replicationv1.AnnounceRequest) (*replicationv1.AnnounceResponse, error) {
	ann, err := decodeAnnouncement(req)
	if err != nil {
		return nil, err
	}
	giveBack, err := a.gate.take(ctx, ann.Group)
	if err != nil {
		return nil, err
	}
	defer giveBack()
	answer := &replicationv1.AnnounceResponse{Version: ProtocolVersion, Term: uint64(ann.Term)}
	if ann.Ended {
		return answer, a.groups.Ended(ctx, peer, ann.Group, ann.Term)
	}
	if err := a.groups.Recognise(ctx, peer, ann); err != nil {
		return nil, err
	}
	held, known, err := a.groups.Standing(ctx, ann.Group)
	if err != nil {
		return nil, fmt.Errorf("read standing of group %s: %w", ann.Group, err)
	}
	v, err := judge(a.site, peer, ann.Group, held, known, ann.Term)
	if err != nil {
		return nil, err
	}
	if v != verdictKeep {
		open, err := a.gate.close(ctx, ann.Group, fmt.Errorf("site %s took over at term %d: %w", peer, ann.Term, ErrStaleTerm))
		if err != nil {
			return nil, err
		}
		defer open()
	}
	if err := a.groups.Follow(ctx, peer, ann); err != nil {
		return nil, fmt.Errorf("follow site %s in group %s: %w", peer, ann.Group, err)
	}
	if err := a.settle(ctx, ann); err != nil {
		return nil, err
	}
	return answer, nil
}

// settle ends what comes through the doors that a volume has no more: that of another
// group for an announced member, which has left that, and this group's for a volume that
// is no member. So behind a group's fence nothing comes for its members. New streams
// of that kind are refused, because the membership is durable.
func (a *admission) settle(ctx context.Context, ann Announcement) error {
	members := make([]journal.VolumeID, len(ann.Members))
	for i, m := range ann.Members {
		members[i] = m.Volume
	}
	cause := fmt.Errorf("group %s was announced with other members: %w", ann.Group, ErrUnknownMember)
	if err := a.gate.evict(ctx, ann.Group, members, cause); err != nil {
		return fmt.Errorf("end streams of volumes that have left group %s, or another one for it: %w", ann.Group, err)
	}
	if err := a.images.settle(ann.Group, members); err != nil {
		return fmt.Errorf("discard partial images of volumes that have left group %s: %w", ann.Group, err)
	}
	return nil
}

// admit takes the hello of an authenticated peer and returns the volume's
// pass with the state machine that takes the stream. The caller leaves the
// pass when the stream ends.
func (a *admission) admit(ctx context.Context, peer string, m *replicationv1.Hello) (*pass, *replica, error) {
	h, err := decodeHello(m)
	if err != nil {
		return nil, nil, err
	}
	if !a.only.IsZero() && h.volume != a.only {
		return nil, nil, fmt.Errorf("volume %s is sent to the engine of volume %s: %w", h.volume, a.only, ErrUnknownMember)
	}
	// Asked before as well, so that the gate keeps nothing for a group that is
	// not known.
	if err := a.mayStream(ctx, peer, h.group, h.term); err != nil {
		return nil, nil, err
	}
	p, err := a.gate.issue(ctx, a.door(h.group), h.volume)
	if err != nil {
		return nil, nil, fmt.Errorf("admit volume %s of group %s: %w", h.volume, h.group, err)
	}
	// The standing is read while the pass is held: a promote that comes later
	// revokes it, one that came earlier is seen here.
	if err := a.mayStream(ctx, peer, h.group, h.term); err != nil {
		p.leave()
		return nil, nil, err
	}
	return p, &replica{hello: h, stores: a.stores, codec: a.codec, images: a.images}, nil
}

// mayStream accepts exactly what an announcement has made durable.
func (a *admission) mayStream(ctx context.Context, peer, groupName string, term group.Term) error {
	held, known, err := a.standings.Standing(ctx, groupName)
	if err != nil {
		return fmt.Errorf("read standing of group %s: %w", groupName, err)
	}
	v, err := judge(a.site, peer, groupName, held, known, term)
	if err != nil {
		return err
	}
	if v != verdictKeep {
		return fmt.Errorf("group %s, term %d of site %s: %w", groupName, term, peer, ErrNotAnnounced)
	}
	return nil
}

// door names the part of the gate that a group's streams pass. An engine's
// volume can be moved to another group, and has one door whatever its group.
func (a *admission) door(groupName string) string {
	if a.only.IsZero() {
		return groupName
	}
	return ""
}

// fence stops the group's streams: on return none of them appends, and none
// is admitted, nor an announcement judged, until release.
func (a *admission) fence(ctx context.Context, groupName string) (release func(), err error) {
	open, err := a.shut(ctx, groupName)
	if err != nil {
		return nil, err
	}
	// A promoted site takes no image; its stores are what they are now.
	if err := a.images.abort(a.door(groupName)); err != nil {
		open()
		return nil, fmt.Errorf("discard partial images of group %s: %w", groupName, err)
	}
	return open, nil
}

// shut is fence, but incomplete images stay and may go on after release.
func (a *admission) shut(ctx context.Context, groupName string) (release func(), err error) {
	giveBack, err := a.gate.take(ctx, a.door(groupName))
	if err != nil {
		return nil, err
	}
	open, err := a.gate.close(ctx, a.door(groupName), ErrFenced)
	if err != nil {
		giveBack()
		return nil, err
	}
	return func() { open(); giveBack() }, nil
}

// demoteIfStale makes this site give up a group when a peer's refusal shows
// that a newer primary was promoted; demoted is true when it has. Where the refusal names
// this very site it goes on, at the term that it was refused for.
func demoteIfStale(ctx context.Context, groups Demoter, groupName string, refusal error) (demoted bool, err error) {
	var term *TermError
	if !errors.As(refusal, &term) || term.Kind != ErrStaleTerm || term.Held <= term.Offered {
		return false, nil
	}
	err = groups.Demote(ctx, groupName, term.Held, term.Owner)
	if errors.Is(err, ErrOwnTerm) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("demote group %s: %w", groupName, err)
	}
	return true, nil
}

// under runs an append of a stream if its pass is still valid.
func (p *pass) under(act func() error) error {
	if err := p.enter(); err != nil {
		return fmt.Errorf("append to volume %s: %w", p.volume, err)
	}
	defer p.exit()
	return act()
}
