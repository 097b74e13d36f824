package fleet_test

import (
	"context"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-csi/lockstep/group"
)

// step is one thing that happens.
func (l *life) step() {
	s := l.sites[string(rune('a'+l.rng.IntN(2)))]
	l.checkRoles()
	time.Sleep(time.Duration(1+l.rng.IntN(100)) * time.Millisecond)
	if s.fleet != nil && s.isDead() {
		l.revive(s)
	}
	if l.rng.IntN(3) == 0 {
		l.staleWrite()
	}
	switch n := l.rng.IntN(100); {
	case n < 10:
		l.replace(s)
	case n < 13 && s.fleet != nil:
		l.logf("controller of site %s ends", s.site)
		s.halt()
	case n < 20:
		l.revive(s)
	case n < 24:
		s.setApart(true)
		l.logf("nobody gets to site %s", s.site)
	case n < 32:
		s.setApart(false)
		l.logf("site %s can be reached", s.site)
	case n < 36:
		l.failover()
	case n < 42:
		l.checkPoints()
	case n < 47:
		time.Sleep(time.Duration(l.rng.IntN(4000)) * time.Millisecond)
	default:
		l.use()
	}
}

// use is one thing that needs the application to run.
func (l *life) use() {
	if s := l.main(); l.unserved || s.fleet == nil || s.isDead() {
		l.serve()
	}
	switch n := l.rng.IntN(62); {
	case n < 3:
		l.plannedFailover(10 * time.Second)
	case n < 24:
		l.write()
	case n < 34:
		l.take()
	case n < 38:
		l.churn()
	case n < 48:
		l.rewind()
	case n < 55:
		l.snapshot()
	case n < 58:
		l.expand()
	default:
		l.changeMembers()
	}
}

// end brings the sites together, and goes over to the other one and back.
func (l *life) end() {
	l.logf("the end begins")
	for range 4 { // each life has seen a volume deleted, unless a rewind is open
		if l.counts["deletions"] == 0 {
			l.serve()
			l.changeMembers()
		}
	}
	for range 2 {
		for _, s := range l.sites {
			s.setApart(false)
			l.revive(s)
		}
		l.serve()
		l.write()
		l.serve()
		var p group.Point
		l.eventually("the last point", func(ctx context.Context) (err error) {
			p, _, err = l.main().fleet.Groups().TakePoint(ctx, "shop", "")
			return err
		})
		l.note(&p, "last")
		if !l.arrives(&p, lifeBound) {
			st, err := l.other().fleet.Groups().State("shop")
			l.fatalf("site %s never has the last point: %+v, %v", l.other().site, st, err)
		}
		l.checkPoints()
		from := l.primary
		l.eventually("the last failover", func(context.Context) error {
			if l.primary == from {
				l.serve()
				l.plannedFailover(time.Minute)
			}
			if l.primary == from {
				return errNotYet
			}
			return nil
		})
	}
	for _, s := range l.sites {
		l.revive(s)
		l.eventually("the end of all operations at site "+s.site, func(context.Context) error {
			st, err := s.fleet.Groups().State("shop")
			if err == nil && st.Pending != nil {
				err = errNotYet
			}
			return err
		})
		if views := s.fleet.Views(); len(views) > 0 {
			l.fatalf("views are left at site %s: %v", s.site, views)
		}
	}
}

// TestALifeOfTwoFleets has an application write to a group of two clusters while engines die
// and are replaced, controllers end, die in the midst of an operation and come back with what they have
// committed, the clusters are cut off from one another, are failed over to, in order or not, and
// rewind, volumes join, grow, are retired and deleted, and snapshots are taken and dropped.
// All that is acknowledged stays, each recovery point on either site is one moment of all
// members, a snapshot is there until it is dropped, on a timeline that was left too, no volume is
// smaller than it was at its point, a site that was left takes no writes once it knows, and all comes to rest in the end.
// It lives in time of its own. LOCKSTEP_SIM_SEED repeats a seed, as far as goroutines let it;
// LOCKSTEP_SIM_SEEDS sets how many there are.
func TestALifeOfTwoFleets(t *testing.T) {
	first, last := uint64(1), uint64(lifeSeeds)
	if n, err := strconv.ParseUint(os.Getenv("LOCKSTEP_SIM_SEED"), 10, 64); err == nil {
		first, last = n, n
	} else if n, err := strconv.ParseUint(os.Getenv("LOCKSTEP_SIM_SEEDS"), 10, 64); err == nil {
		last = n
	}
	total := map[string]int{}
	for seed := first; seed <= last; seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLife(t, seed)
				l.create(id(1))
				l.create(id(2))
				l.serve()
				for range lifeSteps {
					l.step()
				}
				l.end()
				for what, n := range l.counts {
					total[what] += n
				}
			})
		})
	}
	t.Logf("%v", total)
	for _, what := range []string{"points", "rewinds", "failovers", "planned", "read", "stale", "controllers", "snapshots", "snapshots read", "expansions", "retirements", "deletions"} {
		if first < last && total[what] == 0 {
			t.Errorf("there were no %s", what)
		}
	}
}
