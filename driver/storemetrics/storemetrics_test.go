package storemetrics

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lockstep-csi/lockstep/journal"
)

// oneStore collects the figures of one store.
type oneStore struct {
	*Metrics
	of []string
}

func (s oneStore) Collect(ch chan<- prometheus.Metric) {
	thinning := journal.ThinningStats{Tiers: []journal.TierBytes{{Interval: time.Minute, Bytes: 5}}}
	s.Journal(ch, 1, 2, &thinning, s.of...)
	s.Space(ch, &journal.SpaceStats{Refused: 5}, s.of...)
	s.Checks(ch, &journal.Stats{Damaged: 3, Repairs: journal.RepairStats{Unrepairable: 2}}, &journal.ScrubStats{LastFull: time.Unix(4, 0)}, s.of...)
}

// TestEveryFigureIsGiven has a strict registry compare what is described with what is
// collected, with the labels of an engine and with those of a site.
func TestEveryFigureIsGiven(t *testing.T) {
	for _, labels := range [][]string{{"volume"}, {"volume", "group"}} {
		store := oneStore{New(labels), make([]string, len(labels))}
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(store)
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		if len(families) != len(store.all) {
			t.Errorf("labels %v: %d figures of %d are given", labels, len(families), len(store.all))
		}
	}
}
