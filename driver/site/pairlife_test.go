package site_test

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// step is one thing that happens.
func (l *life) step() {
	s := l.sites[string(rune('a'+l.rng.IntN(2)))]
	if l.ages && l.rng.IntN(3) == 0 {
		l.age(s)
		return
	}
	switch n := l.rng.IntN(120); {
	case n < 6:
		s.fault.CrashAt(s.fault.Count() + 1 + l.rng.Int64N(60))
		l.logf("site %s is going to crash", s.name)
	case n < 10 || s.fault.Crashed():
		l.crash(s)
	case n < 14:
		s.setApart(true)
		l.logf("nobody gets to site %s", s.name)
	case n < 22:
		s.setApart(false)
		l.logf("site %s can be reached", s.name)
	case n < 28:
		l.failover()
	case n < 34:
		l.checkPoints()
	case n >= 108:
		l.forkStep(s)
	case !l.serves():
		l.crash(l.main())
	case n >= 104:
		l.expand()
	case n >= 100:
		l.modify()
	case n < 37:
		l.catchUp()
	case n < 64:
		l.write()
	case n < 78:
		l.take()
	case n < 84:
		l.churn()
	case n < 90:
		l.rewind()
	case n < 92:
		l.member()
	case n < 94:
		l.check()
	case n < 97:
		l.pin()
	default:
		l.checkPins()
	}
}

// end brings the sites together, and goes over to the other one.
func (l *life) end() {
	for _, name := range []string{"a", "b"} {
		s := l.sites[name]
		s.setApart(false)
		s.fault.Mend()
		if s.fault.Crashed() || s.opened == nil {
			l.crash(s)
		}
		if s.view != nil {
			l.endView(s)
		}
	}
	l.logf("the end begins")
	settings := quiet() // no point comes behind the last one
	settings.ReplicateTo = l.main().peer
	l.keeps, l.kept = nil, nil
	if err := l.main().opened.Groups().Modify(l.ctx, "shop", settings); err != nil {
		l.fatalf("modify: %v", err)
	}
	l.write()
	p, _, err := l.main().opened.Groups().TakePoint(l.ctx, "shop", "")
	if err != nil {
		l.fatalf("take the last point: %v", err)
	}
	l.note(&p, "last")
	other := l.sites[l.main().peer]
	if !l.arrives(&p, time.Minute) {
		st, err := other.opened.Groups().State("shop")
		l.fatalf("site %s never has the last point: %+v, %v", other.name, st, err)
	}
	l.checkPoints()
	l.endForks(other)
	l.endForks(l.main())
	l.failover()
	if l.primary != other.name {
		l.fatalf("site %s could not be failed over to", other.name)
	}
	for _, s := range l.sites {
		if err := s.stop(); err != nil {
			l.fatalf("stop site %s: %v", s.name, err)
		}
	}
}

// TestALifeOfTwoSites has an application write to a group of two sites while these crash, are
// cut off from one another, are failed over to, and rewind, and pins, writable forks and a third volume come and go.
// All that is acknowledged stays, each recovery point on either site is one moment of all
// members, and the newest one that a replica has is what it is failed over to.
// LOCKSTEP_SIM_SEED repeats a seed, as far as the sites' own goroutines let it;
// LOCKSTEP_SIM_SEEDS sets how many there are.
func TestALifeOfTwoSites(t *testing.T) {
	live(t, lifeSeeds, kind{}, "points", "rewinds", "failovers", "read", "forks read", "starts")
}

// TestALifeThatAges is TestALifeOfTwoSites with clocks that jump, and a history that is
// kept by tiers: of each interval its first point stays, what is pinned or open outlives all
// tiers, and what is chosen that may be gone is either refused or whole.
func TestALifeThatAges(t *testing.T) {
	live(t, agingSeeds, kind{ages: true}, "points", "rewinds", "read", "rewrites", "kept points", "old points read", "points gone", "held views read")
}

// live runs the seeds of one kind of life. Each of some things has to happen in them.
func live(t *testing.T, seeds uint64, k kind, happens ...string) {
	t.Helper()
	first, last := uint64(1), seeds
	if n, err := strconv.ParseUint(os.Getenv("LOCKSTEP_SIM_SEED"), 10, 64); err == nil {
		first, last = n, n
	} else if n, err := strconv.ParseUint(os.Getenv("LOCKSTEP_SIM_SEEDS"), 10, 64); err == nil {
		last = n
	}
	total := map[string]int{}
	for seed := first; seed <= last; seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			l := newLife(t, seed, k)
			if k.ages {
				l.keepBy()
			}
			for range lifeSteps * k.length() {
				l.step()
			}
			l.end()
			for what, n := range l.counts {
				total[what] += n
			}
		})
	}
	t.Logf("%v", total)
	for _, what := range happens {
		if first < last && total[what] == 0 {
			t.Errorf("there were no %s", what)
		}
	}
}
