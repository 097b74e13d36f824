package harness

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// Fork is a writable fork of a group on a site.
type Fork struct {
	Name string
	// Shown reads it, as a view is read; it is discarded, and not closed.
	Shown *View
}

// NewFork is a fork to be made; see CreateForkRequest.
type NewFork struct {
	Name, Group, At string
	QuotaBytes      int64
	MaxAge          time.Duration // 0: the site's default
}

// CreateFork makes a fork. The caller discards it.
func (s *Site) CreateFork(ctx context.Context, n NewFork) (*Fork, error) {
	request := &adminv1.CreateForkRequest{Name: n.Name, Group: n.Group, At: n.At, QuotaBytes: n.QuotaBytes}
	if n.MaxAge != 0 {
		request.MaxAge = durationpb.New(n.MaxAge)
	}
	resp, err := s.Admin.CreateFork(ctx, request)
	if err != nil {
		return nil, fmt.Errorf("fork %s at %s on site %s: %w", n.Group, n.At, s.Config.Name, err)
	}
	f := &Fork{Name: n.Name, Shown: &View{Point: resp.GetFork().GetPoint(), Exports: map[string]*adminv1.ViewExport{}, site: s, id: "fork " + n.Name}}
	for _, e := range resp.GetFork().GetExports() {
		f.Shown.Exports[e.GetVolumeId()] = e
	}
	return f, nil
}

// Status is what the site says of the fork; nil if it has none of that name.
func (f *Fork) Status(ctx context.Context) (*adminv1.Fork, error) {
	resp, err := f.Shown.site.Admin.ListForks(ctx, &adminv1.ListForksRequest{})
	if err != nil {
		return nil, fmt.Errorf("list forks of site %s: %w", f.Shown.SiteName(), err)
	}
	for _, known := range resp.GetForks() {
		if known.GetName() == f.Name {
			return known, nil
		}
	}
	return nil, nil
}

// AwaitState waits until the site says that the fork is open, or given-up.
func (f *Fork) AwaitState(ctx context.Context, state string) (*adminv1.Fork, error) {
	var status *adminv1.Fork
	err := Until(ctx, 100*time.Millisecond, func() (err error) {
		status, err = f.Status(ctx)
		if err == nil && (status.GetState() != state || status.GetError() != "") {
			err = fmt.Errorf("fork %s of site %s is %q, want %s: %s%s", f.Name, f.Shown.SiteName(), status.GetState(), state, status.GetError(), status.GetReason())
		}
		return err
	})
	return status, err
}

// Open connects to the fork of a volume, to read and write it. The caller closes it.
func (f *Fork) Open(volume string) (*NBD, error) {
	export, ok := f.Shown.Exports[volume]
	if !ok {
		return nil, fmt.Errorf("fork %s has no volume %s", f.Name, volume)
	}
	return DialNBD(export.GetNbdUri())
}

// Discard ends the fork, or removes the record of one that was given up.
func (f *Fork) Discard(ctx context.Context) error {
	_, err := f.Shown.site.Admin.DiscardFork(ctx, &adminv1.DiscardForkRequest{Name: f.Name})
	if err != nil {
		return fmt.Errorf("discard fork %s of site %s: %w", f.Name, f.Shown.SiteName(), err)
	}
	return nil
}
