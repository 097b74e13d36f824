package adminserver

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

const (
	// summariesTimeout bounds how long members are asked, for all groups together: who
	// asks for the status of a site in trouble is to have one.
	summariesTimeout = 5 * time.Second
	// asking is how many groups are asked at once.
	asking = 8
)

// groups describes all groups, in their order. One whose members do not answer is
// described without what they alone can tell, and says so.
func (s *Server) groups(ctx context.Context) []*adminv1.Group {
	ctx, cancel := context.WithTimeout(ctx, summariesTimeout)
	defer cancel()
	names := s.cfg.Site.Groups().Groups()
	found := make([]*adminv1.Group, len(names))
	var all errgroup.Group
	all.SetLimit(asking)
	for i, name := range names {
		all.Go(func() error {
			if g, err := s.cfg.Site.Groups().Summary(ctx, name); g.State.Name != "" { // it may have ended meanwhile
				found[i] = s.group(&g, err)
			}
			return nil
		})
	}
	_ = all.Wait() // none fails
	return slices.DeleteFunc(found, func(g *adminv1.Group) bool { return g == nil })
}
