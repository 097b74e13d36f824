package integration

import (
	"context"
	"errors"
	"testing"
	"time"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

// sameOnBoth waits until both sites hold the present state of a group that
// nobody writes to any more, and compares its volumes byte by byte.
func sameOnBoth(ctx context.Context, t *testing.T, pair *harness.Pair, volumes []*harness.Volume) {
	t.Helper()
	now := time.Now()
	check(t, pair.A.AwaitPoint(ctx, groupName, now))
	check(t, pair.B.AwaitPoint(ctx, groupName, now))
	a, b := digests(ctx, t, pair.A, volumes), digests(ctx, t, pair.B, volumes)
	for i, v := range volumes {
		if a[i] != b[i] {
			t.Errorf("volume %s differs: %s on site a, %s on site b", v.Name, a[i], b[i])
		}
	}
}

func digests(ctx context.Context, t *testing.T, s *harness.Site, volumes []*harness.Volume) []string {
	t.Helper()
	view := must(s.OpenView(ctx, groupName, "latest"))(t)
	var sums []string
	var errs []error
	for _, v := range volumes {
		sum, err := view.Digest(v.ID)
		sums, errs = append(sums, sum), append(errs, err)
	}
	check(t, errors.Join(append(errs, view.Close(ctx))...))
	return sums
}

// chainsAt returns how long each chain is at a recovery point.
func chainsAt(ctx context.Context, t *testing.T, c *chains, s *harness.Site, at string) []int {
	t.Helper()
	view := must(s.OpenView(ctx, groupName, at))(t)
	lengths, err := c.verify(view)
	check(t, errors.Join(err, view.Close(ctx)))
	return lengths
}

// awaitRole waits until a site has a role for the group.
func awaitRole(ctx context.Context, t *testing.T, s *harness.Site, role adminv1.Role) {
	t.Helper()
	check(t, harness.Until(ctx, 20*time.Millisecond, func() error {
		g, err := s.Group(ctx, groupName)
		if err == nil && g.GetRole() != role {
			err = errors.New("site " + s.Config.Name + " is " + g.GetRole().String())
		}
		return err
	}))
}
