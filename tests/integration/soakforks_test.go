package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"time"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

const (
	// soakForkBytes is the head of each of the chains' volumes that is written
	// to in a fork: all that the chains write to, so that what came from a fork
	// into the volume, or the other way, would be found.
	soakForkBytes  = 512 << 10
	soakForkWrites = 32 // to each volume, each time
	soakForkQuota  = 128 * mib
	// A fork that is left to its age limit sees one cycle's kill, and one more.
	soakForkAge = 90 * time.Second
	// soakAgedForks is how long a soak is that one of them ends in, at least.
	soakAgedForks = 6 * time.Minute
)

// soakFork is a fork and what it must hold.
type soakFork struct {
	*harness.Fork
	site   *harness.Site
	heads  [][]byte // of each of the chains' volumes
	aged   bool     // it is left to its age limit
	writes *rand.Rand
}

// tendForks looks at the forks there are, writes to them, ends those that are
// to end, and makes the next one: of the newest point, on both sites in turn.
func (s *soak) tendForks(ctx context.Context) {
	s.t.Helper()
	var kept []*soakFork
	for _, f := range s.forks {
		switch {
		case f.aged && s.hasExpired(ctx, f):
			s.did["fork that expired"]++
		case f.aged:
			s.useFork(ctx, f)
			kept = append(kept, f)
		default:
			s.useFork(ctx, f)
			s.discardFork(ctx, f)
			s.did["fork"]++
		}
	}
	s.forks = append(kept, s.makeFork(ctx))
}

// makeFork forks the newest point, which must hold all that the chains had
// written, and writes to the fork.
func (s *soak) makeFork(ctx context.Context) *soakFork {
	s.t.Helper()
	f := &soakFork{site: s.sites()[s.cycle%2], aged: s.cycle%3 == 0, writes: rand.New(rand.NewPCG(uint64(s.cycle), 1))}
	n := harness.NewFork{Name: fmt.Sprintf("soak-%d", s.cycle), Group: groupName, At: "latest", QuotaBytes: soakForkQuota}
	if f.aged {
		n.MaxAge = soakForkAge
	}
	f.Fork = must(f.site.CreateFork(ctx, n))(s.t)
	_ = must(s.chains.verify(f.Shown))(s.t)
	for _, v := range s.chains.volumes {
		head := make([]byte, soakForkBytes)
		check(s.t, f.Shown.Read(v.ID, head, 0))
		f.heads = append(f.heads, head)
	}
	s.writeFork(f)
	return f
}

// useFork checks that a fork is there with all that was written to it, whatever
// was killed meanwhile, and writes on.
func (s *soak) useFork(ctx context.Context, f *soakFork) {
	s.t.Helper()
	_ = must(f.AwaitState(ctx, "open"))(s.t)
	s.checkFork(f)
	s.writeFork(f)
	s.checkFork(f)
}

func (s *soak) checkFork(f *soakFork) {
	s.t.Helper()
	got := make([]byte, soakForkBytes)
	for i, v := range s.chains.volumes {
		check(s.t, f.Shown.Read(v.ID, got, 0))
		if !bytes.Equal(got, f.heads[i]) {
			s.t.Fatalf("fork %s of site %s: volume %d does not hold what was written to it", f.Name, f.site.Config.Name, i)
		}
	}
}

// writeFork writes at random to each volume, and makes it durable.
func (s *soak) writeFork(f *soakFork) {
	s.t.Helper()
	for i, v := range s.chains.volumes {
		c := must(f.Open(v.ID))(s.t)
		for range soakForkWrites {
			check(s.t, f.writeAtRandom(c, f.heads[i]))
		}
		check(s.t, errors.Join(c.Flush(), c.Close()))
	}
}

// writeAtRandom writes, or zeroes, up to 16 KiB somewhere in a head.
func (f *soakFork) writeAtRandom(c *harness.NBD, head []byte) error {
	const sector = 512
	length := sector * (1 + f.writes.IntN(32))
	off := sector * f.writes.IntN((len(head)-length)/sector+1)
	if f.writes.IntN(8) == 0 {
		clear(head[off:][:length])
		return c.Zero(int64(off), length)
	}
	for i := off; i < off+length; i++ {
		head[i] = byte(f.writes.Uint32())
	}
	_, err := c.WriteAt(head[off:][:length], int64(off))
	return err
}

// hasExpired reports whether a fork's age has come. Then it must have been given
// up for that, be shown no more and take no room; its record is removed.
func (s *soak) hasExpired(ctx context.Context, f *soakFork) bool {
	s.t.Helper()
	status := must(f.Status(ctx))(s.t)
	if time.Now().Before(status.GetExpires().AsTime()) {
		return false
	}
	status = must(f.AwaitState(ctx, "given-up"))(s.t)
	if !strings.Contains(status.GetReason(), "older") {
		s.t.Fatalf("fork %s of site %s was given up because %s", f.Name, f.site.Config.Name, status.GetReason())
	}
	s.discardFork(ctx, f)
	return true
}

// discardFork ends a fork, of which nothing must be left.
func (s *soak) discardFork(ctx context.Context, f *soakFork) {
	s.t.Helper()
	check(s.t, f.Discard(ctx))
	if status := must(f.Status(ctx))(s.t); status != nil {
		s.t.Fatalf("fork %s of site %s was discarded and is %q", f.Name, f.site.Config.Name, status.GetState())
	}
	if c, err := f.Open(s.chains.volumes[0].ID); err == nil {
		check(s.t, c.Close())
		s.t.Fatalf("fork %s of site %s was discarded and can be opened", f.Name, f.site.Config.Name)
	}
	if left := must(filepath.Glob(filepath.Join(f.site.Config.Root, "forks", f.Name)))(s.t); len(left) != 0 {
		s.t.Fatalf("fork %s of site %s was discarded and left %q", f.Name, f.site.Config.Name, left)
	}
}

// discardForks ends all of them, after a last look.
func (s *soak) discardForks(ctx context.Context) {
	s.t.Helper()
	for _, f := range s.forks {
		if f.aged && s.hasExpired(ctx, f) {
			s.did["fork that expired"]++
			continue
		}
		s.useFork(ctx, f)
		s.discardFork(ctx, f)
	}
	s.forks = nil
}
