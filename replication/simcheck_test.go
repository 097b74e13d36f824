package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-csi/lockstep/group"
)

// check holds after every step.
func (m *sim) check() error {
	for _, s := range m.sites {
		for _, v := range m.volumes {
			store := s.stores[v]
			if store == nil {
				continue
			}
			if err := store.verify(); err != nil {
				return fmt.Errorf("site %s: %w", s.name, err)
			}
			if acked, ok := s.acked[v]; ok && !store.holds(acked) {
				return fmt.Errorf("site %s acknowledged %s of volume %d and does not hold it", s.name, acked, v[0])
			}
		}
	}
	return nil
}

// settle ends all faults and demands that the sites come to the same state.
func (m *sim) settle() {
	m.linkUp = true
	for _, s := range m.sites {
		if !s.up {
			m.boot(s)
		}
		for _, v := range m.volumes {
			if store := s.stores[v]; store != nil {
				store.heal()
				if _, err := s.open(v); err != nil {
					m.fail(err)
				}
			}
		}
	}
	for range 4000 {
		for _, s := range m.sites {
			m.announce(s)
			m.connect(s)
			if m.isPrimary(s) {
				for _, v := range m.volumes {
					_ = s.stores[v].Flush(context.Background())
				}
			}
		}
		for _, st := range slices.Clone(m.live) {
			m.send(st)
			m.deliver(st)
			m.settleStream(st)
			m.answer(st)
			if st.damaged {
				m.closeSource(st, errors.New("connection lost"))
				m.loseReplica(st)
			}
		}
		m.advance()
		if err := m.check(); err != nil {
			m.fail(err)
		}
		if m.converged() {
			return
		}
	}
	for _, s := range m.sites {
		m.t.Logf("site %s: %+v", s.name, s.held)
		for _, v := range m.volumes {
			if st := s.stores[v]; st != nil {
				m.t.Logf("  volume %d: path %v durable %v", v[0], st.Path(), st.Durable())
			}
		}
	}
	m.fail(errors.New("the sites do not come to the same state"))
}

// converged reports whether one site is primary and the other holds exactly
// the same.
func (m *sim) converged() bool {
	for _, s := range m.sites {
		peer := m.other(s)
		if !m.isPrimary(s) || peer.held.Role != group.RoleReplica {
			continue
		}
		same := true
		for _, v := range m.volumes {
			a, b := s.stores[v], peer.stores[v]
			same = same && b != nil && a.Path().Contains(b.Durable()) && a.Tip().Seq == b.Durable().Seq && s.streams[v] != nil && s.streams[v].begun && len(s.streams[v].src.credit.flight) == 0
		}
		if same {
			return true
		}
	}
	return false
}
