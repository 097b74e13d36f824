package driver

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/driver/adminserver"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
)

var _ adminserver.Forks = adminSite{}

// CreateFork implements adminserver.Forks.
func (a adminSite) CreateFork(ctx context.Context, n adminserver.NewFork) (adminserver.Fork, error) {
	f, err := a.site.CreateFork(ctx, site.NewFork{Name: n.Name, Group: n.Group, At: n.At, QuotaBytes: n.QuotaBytes, MaxAge: n.MaxAge})
	switch {
	case errors.Is(err, site.ErrForkExists):
		err = fmt.Errorf("%w: %w", adminserver.ErrForkExists, err)
	case errors.Is(err, site.ErrBadFork):
		err = fmt.Errorf("%w: %w", adminserver.ErrBadFork, err)
	}
	if err != nil {
		return adminserver.Fork{}, err
	}
	return a.fork(f), nil
}

// ListForks implements adminserver.Forks.
func (a adminSite) ListForks() []adminserver.Fork {
	var all []adminserver.Fork
	for _, f := range a.site.ListForks() {
		all = append(all, a.fork(f))
	}
	return all
}

// DiscardFork implements adminserver.Forks.
func (a adminSite) DiscardFork(ctx context.Context, name string) error {
	err := a.site.DiscardFork(ctx, name)
	if errors.Is(err, site.ErrNoFork) {
		err = fmt.Errorf("%w: %w", adminserver.ErrNoFork, err)
	}
	return err
}

// CommitFork implements adminserver.Forks.
func (a adminSite) CommitFork(ctx context.Context, group, name string, dryRun bool) (groups.ForkCommit, error) {
	done, err := a.site.CommitFork(ctx, group, name, dryRun)
	switch {
	case errors.Is(err, site.ErrNoFork):
		err = fmt.Errorf("%w: %w", adminserver.ErrNoFork, err)
	case errors.Is(err, site.ErrForkClosed):
		err = fmt.Errorf("%w: %w", adminserver.ErrForkClosed, err)
	}
	return done, err
}

func (a adminSite) fork(f site.Fork) adminserver.Fork {
	out := adminserver.Fork{Name: f.Name, Group: f.Group, State: string(f.State), Reason: f.Reason, Ended: f.Ended, Point: f.Point, Created: f.Created, Expires: f.Expires,
		QuotaBytes: f.QuotaBytes, UsedBytes: f.UsedBytes, HeldBytes: f.HeldBytes, Full: f.Full, Err: f.Err,
		CommittedBytes: f.CommittedBytes, CommitBytes: f.CommitBytes}
	if f.State != site.ForkOpen || !f.Open {
		return out
	}
	for _, id := range f.Members {
		out.Members = append(out.Members, a.export(id, site.ForkExport(f.Name, id)))
	}
	return out
}
