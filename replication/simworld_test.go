package replication

import (
	"math/rand/v2"
	"testing"

	"github.com/lockstep-csi/lockstep/journal"
)

// sim is the simulated world: two sites, what connects them, and chance.
type sim struct {
	t        *testing.T
	seed     uint64
	rng      *rand.Rand
	sites    [2]*simSite
	volumes  []journal.VolumeID
	linkUp   bool
	live     []*simStream
	timeline uint64
	ckpt     int64
	// cuts is the oracle of checkpoints, by number and time.
	cuts   map[[2]int64]map[journal.VolumeID]journal.Position
	counts simCounts
	trace  []string
	codec  *codec
}

// simSite is a site with what it loses in a crash.
type simSite struct {
	*modelSite
	up        bool
	admission *admission
	announced bool // the peer accepted the present term
	streams   map[journal.VolumeID]*simStream
	acked     map[journal.VolumeID]journal.Position // newest that it acknowledged as replica
	undo      map[journal.VolumeID]journal.Position // where a rewind started
}

// simStream is one connection of one volume. Messages travel encoded. What is
// under way when a side is gone may still arrive at the other, also after a
// newer stream was opened.
type simStream struct {
	from, to  *simSite
	volume    journal.VolumeID
	src       *source // nil when the sender's side is closed
	begun     bool
	rep       *replica // nil before hello is handled
	pass      *pass
	repClosed bool
	toReplica [][]byte
	toSource  [][]byte
	final     error // status that the sender gets behind toSource
	damaged   bool  // by a fault of the link; must end in an error
}

// simCounts shows that the simulation really came to what it is meant to try.
type simCounts struct {
	Acks, Batches, Forks, Images, ResumedImages, Crashes, DiskFaults, Failovers, Demotions, Rewinds, Damaged, Replaced, PointsChecked int
	// Realigned is too rare to be demanded of every run; it has a test of
	// its own.
	Realigned int
}

func (c *simCounts) fields() []*int {
	return []*int{&c.Acks, &c.Batches, &c.Forks, &c.Images, &c.ResumedImages, &c.Crashes, &c.DiskFaults, &c.Failovers, &c.Demotions, &c.Rewinds, &c.Damaged, &c.Replaced, &c.PointsChecked}
}

func (c *simCounts) add(other simCounts) {
	c.Realigned += other.Realigned
	from := other.fields()
	for i, to := range c.fields() {
		*to += *from[i]
	}
}

func (c *simCounts) demandAll(t *testing.T) {
	for i, n := range c.fields() {
		if *n == 0 {
			t.Errorf("the simulation never came to case %d of %+v", i, *c)
		}
	}
}
