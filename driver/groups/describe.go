package groups

import "github.com/lockstep-csi/lockstep/replication"

// Sending tells how a group's replication from here stands; nil where there
// is none.
func (g *Groups) Sending(name string) *replication.Metrics {
	r := g.runningOf(name)
	if r == nil || r.replication == nil {
		return nil
	}
	m := r.replication.Metrics()
	return &m
}

// Groups names all groups, ascending.
func (g *Groups) Groups() []string {
	var names []string
	for _, st := range g.reg.List() {
		names = append(names, st.Name)
	}
	return names
}
