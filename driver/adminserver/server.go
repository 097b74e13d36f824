// Package adminserver answers the admin API of a site (api/admin/v1). It
// translates; what it is asked to do is done by whoever implements Site. It owns
// no goroutine that outlives a call.
package adminserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// Config is what a Server needs; all fields but Command, Forks, Timelines and Promoted are required.
type Config struct {
	Site Site
	// Command is what its users type before a verb, for messages that tell them of one;
	// empty: lockstep.
	Command string
	Forks   Forks // nil: the site makes none
	// Timelines are those of volumes of this site, in their order; nil: they are not
	// known here.
	Timelines func(context.Context, []journal.VolumeID) []VolumeTimelines
	Version   string
	Clock     clock.Clock
	// OwnedPin tells pins that something else keeps track of from those that
	// TakePoint made.
	OwnedPin func(pin string) bool
	// Promoted is called when a failover has made this site primary.
	Promoted func(ctx context.Context, group string) error
}

// Server implements adminv1.AdminServer.
type Server struct {
	adminv1.UnimplementedAdminServer
	cfg     Config
	started time.Time
}

// New makes a server.
func New(cfg Config) *Server { return &Server{cfg: cfg, started: cfg.Clock.Now()} }

// command is how a user of this site types a command.
func (s *Server) command(verb string) string {
	return "`" + cmp.Or(s.cfg.Command, "lockstep") + " " + verb + "`"
}

// GetStatus implements adminv1.AdminServer.
func (s *Server) GetStatus(ctx context.Context, _ *adminv1.GetStatusRequest) (*adminv1.GetStatusResponse, error) {
	resp := &adminv1.GetStatusResponse{Site: s.cfg.Site.Name(), Version: s.cfg.Version, Started: stamp(s.started), Peers: s.peers()}
	resp.Groups = s.groups(ctx)
	for _, v := range s.cfg.Site.Volumes() {
		resp.Volumes = append(resp.Volumes, s.volume(v))
	}
	return resp, nil
}

// ListGroups implements adminv1.AdminServer.
func (s *Server) ListGroups(ctx context.Context, _ *adminv1.ListGroupsRequest) (*adminv1.ListGroupsResponse, error) {
	return &adminv1.ListGroupsResponse{Groups: s.groups(ctx)}, nil
}

// DescribeGroup implements adminv1.AdminServer.
func (s *Server) DescribeGroup(ctx context.Context, req *adminv1.DescribeGroupRequest) (*adminv1.DescribeGroupResponse, error) {
	release, err := s.cfg.Site.Wake(ctx, req.GetGroup())
	if err != nil {
		return nil, answer(err)
	}
	defer release()
	g, err := s.cfg.Site.Groups().Summary(ctx, req.GetGroup())
	if err != nil {
		return nil, answer(err)
	}
	resp := &adminv1.DescribeGroupResponse{Group: s.group(&g, nil)}
	for i, id := range g.State.Members {
		v, err := s.cfg.Site.Volume(id)
		if err != nil {
			return nil, answer(err)
		}
		resp.Members = append(resp.Members, s.volume(v))
		if i == 0 {
			resp.Timelines = timelines(v)
		}
	}
	pinned, err := s.cfg.Site.Groups().PinnedPoints(ctx, req.GetGroup())
	if err != nil {
		return nil, answer(err)
	}
	for i := range pinned {
		resp.Pinned = append(resp.Pinned, point(pinned[i]))
	}
	if g.Oldest != nil {
		resp.Oldest = point(*g.Oldest)
	}
	if !req.GetHistory() {
		return resp, nil
	}
	tiers, err := s.cfg.Site.Groups().Tiers(ctx, req.GetGroup())
	if err != nil {
		return nil, answer(err)
	}
	resp.History = history(tiers)
	return resp, nil
}

// Limits of ListPoints.
const (
	defaultPoints = 100
	maxPoints     = 10000
)

// ListPoints implements adminv1.AdminServer.
func (s *Server) ListPoints(ctx context.Context, req *adminv1.ListPointsRequest) (*adminv1.ListPointsResponse, error) {
	limit := int(req.GetLimit())
	if limit == 0 {
		limit = defaultPoints
	}
	if limit > maxPoints {
		return nil, status.Errorf(codes.InvalidArgument, "limit %d is above %d", limit, maxPoints)
	}
	release, err := s.cfg.Site.Wake(ctx, req.GetGroup())
	if err != nil {
		return nil, answer(err)
	}
	defer release()
	points, total, err := s.cfg.Site.Groups().ListPoints(ctx, req.GetGroup(), moment(req.From), moment(req.To), limit)
	if err != nil {
		return nil, answer(err)
	}
	resp := &adminv1.ListPointsResponse{Total: uint64(total)}
	for _, p := range points {
		resp.Points = append(resp.Points, listed(p))
	}
	return resp, nil
}

// TakePoint implements adminv1.AdminServer.
func (s *Server) TakePoint(ctx context.Context, req *adminv1.TakePointRequest) (*adminv1.TakePointResponse, error) {
	if err := checkPin(req.GetPin()); err != nil {
		return nil, err
	}
	release, err := s.cfg.Site.Wake(ctx, req.GetGroup())
	if err != nil {
		return nil, answer(err)
	}
	defer release()
	p, stall, err := s.cfg.Site.Groups().TakePoint(ctx, req.GetGroup(), req.GetPin())
	if err != nil {
		return nil, answer(err)
	}
	if req.GetPin() != "" {
		p.Pins = []string{req.GetPin()}
	}
	return &adminv1.TakePointResponse{Point: point(p), Stall: durationpb.New(stall)}, nil
}

// DropPin implements adminv1.AdminServer.
func (s *Server) DropPin(ctx context.Context, req *adminv1.DropPinRequest) (*adminv1.DropPinResponse, error) {
	release, err := s.cfg.Site.Wake(ctx, req.GetGroup())
	if err != nil {
		return nil, answer(err)
	}
	defer release()
	p, err := s.cfg.Site.Groups().Select(ctx, req.GetGroup(), "pin:"+req.GetPin())
	if err != nil {
		return nil, answer(err)
	}
	if s.cfg.OwnedPin(req.GetPin()) {
		return nil, status.Errorf(codes.FailedPrecondition, "pin %q belongs to a CSI snapshot, a rewind or a writable fork: delete the snapshot, undo or commit the rewind, or discard the fork", req.GetPin())
	}
	if err := s.cfg.Site.Unpin(ctx, req.GetGroup(), req.GetPin()); err != nil {
		return nil, answer(err)
	}
	return &adminv1.DropPinResponse{Point: point(p)}, nil
}

// ReopenVolume implements adminv1.AdminServer.
func (s *Server) ReopenVolume(ctx context.Context, req *adminv1.ReopenVolumeRequest) (*adminv1.ReopenVolumeResponse, error) {
	began := s.cfg.Clock.Now()
	id, err := s.oneVolume(req.GetVolume())
	if err != nil {
		return nil, err
	}
	reopened, err := s.cfg.Site.Reopen(ctx, id)
	if err != nil {
		return nil, answer(err)
	}
	now, err := s.cfg.Site.Volume(id)
	if err != nil {
		return nil, answer(err)
	}
	return &adminv1.ReopenVolumeResponse{Volume: s.volume(now), Reopened: reopened, Took: s.since(began)}, nil
}

// RemoveReplica implements adminv1.AdminServer.
func (s *Server) RemoveReplica(ctx context.Context, req *adminv1.RemoveReplicaRequest) (*adminv1.RemoveReplicaResponse, error) {
	id, err := journal.ParseVolumeID(req.GetVolume())
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "%q is no id of a volume: see %s", req.GetVolume(), s.command("status -o wide"))
	}
	if err := s.cfg.Site.RemoveReplica(ctx, id); err != nil {
		return nil, answer(err)
	}
	return &adminv1.RemoveReplicaResponse{}, nil
}

// AdoptVolume implements adminv1.AdminServer.
func (s *Server) AdoptVolume(ctx context.Context, req *adminv1.AdoptVolumeRequest) (*adminv1.AdoptVolumeResponse, error) {
	a := Adoption{Store: req.GetStore(), Name: req.GetName(), Group: cmp.Or(req.GetGroup(), req.GetName()), ReplicateTo: req.GetReplicateTo()}
	id, err := s.cfg.Site.Adopt(ctx, a)
	if err != nil {
		return nil, answer(err)
	}
	v, err := s.cfg.Site.Volume(id)
	if err != nil {
		return nil, answer(err)
	}
	return &adminv1.AdoptVolumeResponse{Volume: s.volume(v)}, nil
}

// volumesNamed returns the volume of that id, or all of that name or claim.
func (s *Server) volumesNamed(text string) (found []Volume) {
	for _, v := range s.cfg.Site.Volumes() {
		if v.ID.String() == text {
			return []Volume{v}
		}
		if v.Name == text || v.Claim == text && text != "" && !v.Retired {
			found = append(found, v)
		}
	}
	return found
}

// StartRewind implements adminv1.AdminServer.
func (s *Server) StartRewind(ctx context.Context, req *adminv1.StartRewindRequest) (*adminv1.StartRewindResponse, error) {
	began := s.cfg.Clock.Now()
	release, err := s.cfg.Site.Wake(ctx, req.GetGroup())
	if err != nil {
		return nil, answer(err)
	}
	defer release()
	r, err := s.cfg.Site.Groups().StartRewind(ctx, req.GetGroup(), req.GetAt(), req.GetDryRun())
	if err != nil {
		return nil, answer(err)
	}
	return &adminv1.StartRewindResponse{Rewind: rewind(&r), Took: s.since(began)}, nil
}

// UndoRewind implements adminv1.AdminServer.
func (s *Server) UndoRewind(ctx context.Context, req *adminv1.UndoRewindRequest) (*adminv1.UndoRewindResponse, error) {
	began := s.cfg.Clock.Now()
	release, err := s.cfg.Site.Wake(ctx, req.GetGroup())
	if err != nil {
		return nil, answer(err)
	}
	defer release()
	p, err := s.cfg.Site.Groups().UndoRewind(ctx, req.GetGroup(), req.GetDryRun())
	if err != nil {
		return nil, answer(err)
	}
	return &adminv1.UndoRewindResponse{To: point(p), Took: s.since(began)}, nil
}

// CommitRewind implements adminv1.AdminServer.
func (s *Server) CommitRewind(ctx context.Context, req *adminv1.CommitRewindRequest) (*adminv1.CommitRewindResponse, error) {
	release, err := s.cfg.Site.Wake(ctx, req.GetGroup())
	if err != nil {
		return nil, answer(err)
	}
	defer release()
	p, err := s.cfg.Site.Groups().CommitRewind(ctx, req.GetGroup(), req.GetDryRun())
	if err != nil {
		return nil, answer(err)
	}
	return &adminv1.CommitRewindResponse{At: point(p)}, nil
}

// Failover implements adminv1.AdminServer.
func (s *Server) Failover(ctx context.Context, req *adminv1.FailoverRequest) (*adminv1.FailoverResponse, error) {
	began := s.cfg.Clock.Now()
	f, err := s.cfg.Site.Groups().Failover(ctx, req.GetGroup(), req.GetAt(), req.GetDryRun())
	if err == nil && !req.GetDryRun() && s.cfg.Promoted != nil {
		if err = s.cfg.Promoted(ctx, req.GetGroup()); err != nil {
			err = fmt.Errorf("this site is the primary of group %s now (checkpoint %d, term %d), but CSI does not know all of its volumes yet; it is told again every 10 s: %w", req.GetGroup(), f.Point.Checkpoint, f.Term, err)
		}
	}
	if err != nil {
		return nil, answer(err)
	}
	resp := &adminv1.FailoverResponse{Point: point(f.Point), Term: uint64(f.Term), Rpo: durationpb.New(f.RPO), Took: s.since(began)}
	resp.Volumes = s.failedOver(f.Point.Members)
	for _, v := range resp.Volumes {
		resp.VolumeIds = append(resp.VolumeIds, v.GetId())
	}
	return resp, nil
}

// failedOver describes the volumes of a failover, ascending by id.
func (s *Server) failedOver(members map[journal.VolumeID]journal.Position) (out []*adminv1.FailoverVolume) {
	for id := range members {
		v := &adminv1.FailoverVolume{Id: id.String()}
		if d, err := s.cfg.Site.Volume(id); err == nil {
			v.Name, v.Claim = d.Name, d.Claim
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b *adminv1.FailoverVolume) int { return strings.Compare(a.GetId(), b.GetId()) })
	return out
}

// OpenView implements adminv1.AdminServer.
func (s *Server) OpenView(ctx context.Context, req *adminv1.OpenViewRequest) (*adminv1.OpenViewResponse, error) {
	began := s.cfg.Clock.Now()
	v, err := s.cfg.Site.OpenView(ctx, req.GetGroup(), req.GetAt())
	if err != nil {
		return nil, answer(err)
	}
	out := s.view(v)
	out.Took = s.since(began)
	return &adminv1.OpenViewResponse{View: out}, nil
}

// CloseView implements adminv1.AdminServer.
func (s *Server) CloseView(ctx context.Context, req *adminv1.CloseViewRequest) (*adminv1.CloseViewResponse, error) {
	err := s.cfg.Site.CloseView(ctx, req.GetId())
	if errors.Is(err, ErrNoView) {
		return nil, status.Errorf(codes.NotFound, "no view %q is open: see %s", req.GetId(), s.command("view list"))
	}
	return &adminv1.CloseViewResponse{}, answer(err)
}

// ListViews implements adminv1.AdminServer.
func (s *Server) ListViews(_ context.Context, req *adminv1.ListViewsRequest) (*adminv1.ListViewsResponse, error) {
	resp := &adminv1.ListViewsResponse{}
	for _, v := range s.cfg.Site.Views() {
		if req.GetGroup() == "" || req.GetGroup() == v.Group {
			resp.Views = append(resp.Views, s.view(v))
		}
	}
	return resp, nil
}

func (s *Server) view(v View) *adminv1.View {
	out := &adminv1.View{Id: v.ID, Group: v.Group, Point: point(v.Point)}
	for _, m := range v.Members {
		out.Exports = append(out.Exports, s.export(m))
	}
	return out
}

func (s *Server) export(m ViewMember) *adminv1.ViewExport {
	e := &adminv1.ViewExport{VolumeId: m.Volume.String(), NbdSocket: m.Socket, NbdUri: m.URI}
	if d, err := s.cfg.Site.Volume(m.Volume); err == nil {
		e.VolumeName, e.Claim = d.Name, d.Claim
	}
	return e
}

func (s *Server) since(t time.Time) *durationpb.Duration {
	return durationpb.New(s.cfg.Clock.Now().Sub(t))
}

// answer gives an error its gRPC code.
func answer(err error) error {
	if err == nil {
		return nil
	}
	for _, row := range []struct {
		err  error
		code codes.Code
	}{
		{group.ErrNotFound, codes.NotFound}, {ErrNotFound, codes.NotFound}, {ErrNoView, codes.NotFound},
		{ErrForkExists, codes.AlreadyExists}, {ErrBadFork, codes.InvalidArgument}, {ErrForkClosed, codes.FailedPrecondition},
		{ErrNoAdoption, codes.FailedPrecondition}, {ErrNoScrub, codes.FailedPrecondition}, {ErrScrubEnded, codes.Aborted}, {ErrExists, codes.AlreadyExists}, {ErrBadStore, codes.InvalidArgument}, {journal.ErrInUse, codes.FailedPrecondition},
		{group.ErrNoPoint, codes.NotFound}, {group.ErrBadSelector, codes.InvalidArgument},
		{group.ErrRole, codes.FailedPrecondition}, {group.ErrNoRewind, codes.FailedPrecondition}, {group.ErrRewindOpen, codes.FailedPrecondition},
		{groups.ErrInUse, codes.FailedPrecondition}, {journal.ErrHorizon, codes.OutOfRange}, {journal.ErrFull, codes.ResourceExhausted}, {vfs.ErrNoSpace, codes.ResourceExhausted},
		{journal.ErrPinExists, codes.AlreadyExists}, {journal.ErrCorrupt, codes.DataLoss}, {journal.ErrPoisoned, codes.DataLoss},
		{group.ErrBusy, codes.Aborted}, {group.ErrBarrier, codes.Aborted}, {group.ErrAway, codes.Unavailable},
		{context.DeadlineExceeded, codes.DeadlineExceeded}, {context.Canceled, codes.Canceled},
	} {
		if errors.Is(err, row.err) {
			return status.Error(row.code, err.Error())
		}
	}
	return status.Error(codes.Internal, err.Error())
}
