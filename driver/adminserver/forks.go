package adminserver

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
)

// Forks are the writable forks of a site. Its methods may be called concurrently.
type Forks interface {
	// CreateFork makes a fork and shows it. ErrForkExists, ErrBadFork.
	CreateFork(ctx context.Context, n NewFork) (Fork, error)
	// ListForks returns all forks, by name.
	ListForks() []Fork
	// DiscardFork removes a fork; ErrNoFork.
	DiscardFork(ctx context.Context, name string) error
	// CommitFork makes a fork of a group production; ErrNoFork, ErrForkClosed, and
	// others as groups.CommitFork.
	CommitFork(ctx context.Context, group, name string, dryRun bool) (groups.ForkCommit, error)
}

// NewFork is a fork to be made.
type NewFork struct {
	Name, Group, At string
	QuotaBytes      int64         // 0: a part of what is free
	MaxAge          time.Duration // 0: the site's default
}

// Fork describes a fork at one moment.
type Fork struct {
	Name       string
	Group      string
	State      string
	Reason     string
	Ended      time.Time
	Point      group.Point
	Created    time.Time
	Expires    time.Time
	QuotaBytes int64
	UsedBytes  int64
	HeldBytes  int64
	Full       bool
	Err        error
	// CommittedBytes of CommitBytes are how far its commit has come.
	CommittedBytes, CommitBytes int64
	Members                     []ViewMember // none while it is not open
}

var (
	// ErrNoFork: no fork of that name.
	ErrNoFork = errors.New("no such fork")
	// ErrForkExists: there is a fork of that name, or one that was given up.
	ErrForkExists = errors.New("a fork of that name exists")
	// ErrBadFork: a fork cannot be as it was asked for.
	ErrBadFork = errors.New("no fork can be made like that")
	// ErrForkClosed: a fork is not in a state in which it could be made production.
	ErrForkClosed = errors.New("the fork cannot be committed as it is")
)

// CreateFork implements adminv1.AdminServer.
func (s *Server) CreateFork(ctx context.Context, req *adminv1.CreateForkRequest) (*adminv1.CreateForkResponse, error) {
	if s.cfg.Forks == nil {
		return nil, errForkless
	}
	began := s.cfg.Clock.Now()
	f, err := s.cfg.Forks.CreateFork(ctx, NewFork{Name: req.GetName(), Group: req.GetGroup(), At: req.GetAt(), QuotaBytes: req.GetQuotaBytes(), MaxAge: req.GetMaxAge().AsDuration()})
	if err != nil {
		return nil, answer(err)
	}
	out := s.fork(f)
	out.Took = s.since(began)
	return &adminv1.CreateForkResponse{Fork: out}, nil
}

// ListForks implements adminv1.AdminServer.
func (s *Server) ListForks(_ context.Context, req *adminv1.ListForksRequest) (*adminv1.ListForksResponse, error) {
	if s.cfg.Forks == nil {
		return nil, errForkless
	}
	resp := &adminv1.ListForksResponse{}
	for _, f := range s.cfg.Forks.ListForks() {
		if req.GetGroup() == "" || req.GetGroup() == f.Group {
			resp.Forks = append(resp.Forks, s.fork(f))
		}
	}
	return resp, nil
}

// DiscardFork implements adminv1.AdminServer.
func (s *Server) DiscardFork(ctx context.Context, req *adminv1.DiscardForkRequest) (*adminv1.DiscardForkResponse, error) {
	if s.cfg.Forks == nil {
		return nil, errForkless
	}
	err := s.cfg.Forks.DiscardFork(ctx, req.GetName())
	if errors.Is(err, ErrNoFork) {
		return nil, status.Errorf(codes.NotFound, "no fork %q: see `lockstep fork list`", req.GetName())
	}
	return &adminv1.DiscardForkResponse{}, answer(err)
}

// CommitFork implements adminv1.AdminServer.
func (s *Server) CommitFork(ctx context.Context, req *adminv1.CommitForkRequest) (*adminv1.CommitForkResponse, error) {
	if s.cfg.Forks == nil {
		return nil, errForkless
	}
	began := s.cfg.Clock.Now()
	done, err := s.cfg.Forks.CommitFork(ctx, req.GetGroup(), req.GetName(), req.GetDryRun())
	if errors.Is(err, ErrNoFork) {
		return nil, status.Errorf(codes.NotFound, "%v: see `lockstep fork list`", err)
	}
	if err != nil {
		return nil, answer(err)
	}
	out := &adminv1.CommitForkResponse{Point: point(done.Point), PayloadBytes: done.PayloadBytes, JournalBytes: done.JournalBytes, Took: s.since(began)}
	if !req.GetDryRun() {
		out.Rewind = rewind(&done.Rewind)
	}
	return out, nil
}

var errForkless = status.Error(codes.FailedPrecondition, "this site makes no writable forks: only one that runs as `lockstep standalone` does")

func (s *Server) fork(f Fork) *adminv1.Fork {
	out := &adminv1.Fork{Name: f.Name, Group: f.Group, State: f.State, Reason: f.Reason, Ended: stamp(f.Ended), Created: stamp(f.Created), Expires: stamp(f.Expires),
		QuotaBytes: f.QuotaBytes, UsedBytes: f.UsedBytes, HeldBytes: f.HeldBytes, Full: f.Full,
		CommittedBytes: f.CommittedBytes, CommitBytes: f.CommitBytes}
	if f.Point.Checkpoint != 0 {
		out.Point = point(f.Point)
	}
	if f.Err != nil {
		out.Error = f.Err.Error()
	}
	for _, m := range f.Members {
		out.Exports = append(out.Exports, s.export(m))
	}
	return out
}

// maxPinBytes is the longest name of a pin that a person gives.
const maxPinBytes = 128

// checkPin refuses names that pins of forks have, and those of rewinds, which a group
// drops when it is started, and what cannot be read in a list or typed again.
func checkPin(pin string) error {
	switch {
	case len(pin) > maxPinBytes || strings.ContainsFunc(pin, func(r rune) bool { return !unicode.IsPrint(r) }):
		return status.Errorf(codes.InvalidArgument, "pin %.40q: want a name of at most %d bytes, all of them printable", pin, maxPinBytes)
	case strings.HasPrefix(pin, groups.ForkPinPrefix):
		return status.Errorf(codes.InvalidArgument, "pin %q: names that begin with %q are those of writable forks", pin, groups.ForkPinPrefix)
	case group.IsRewindPin(pin):
		return status.Errorf(codes.InvalidArgument, "pin %q: names that begin like this are those of rewinds", pin)
	}
	return nil
}
