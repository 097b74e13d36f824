package cluster_test

import (
	"testing"

	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
)

func TestOrphans(t *testing.T) {
	owned := []cluster.Owned{
		{Kind: cluster.KindClaim, Name: "c2", Volume: "2", Site: "a"},
		{Kind: cluster.KindClaim, Name: "c1", Volume: "1", Site: "a"},
		{Kind: cluster.KindLease, Name: "l2", Volume: "2"}, // nobody's, so ours
		{Kind: cluster.KindPod, Name: "p2", Volume: "2", Site: "a"},
		{Kind: cluster.KindPod, Name: "p3", Volume: "3", Site: "b"},
	}
	var names []string
	for _, o := range cluster.Orphans(owned, "a", []string{"1"}) {
		names = append(names, o.Name)
	}
	if len(names) != 3 || names[0] != "p2" || names[1] != "l2" || names[2] != "c2" {
		t.Errorf("got %v, want what uses a claim before it: [p2 l2 c2]", names)
	}
}
