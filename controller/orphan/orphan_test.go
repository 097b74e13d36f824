package orphan_test

import (
	"os"
	"testing"

	"github.com/lockstep-csi/lockstep/controller/orphan"
	"github.com/lockstep-csi/lockstep/internal/apitest"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

func TestOf(t *testing.T) {
	objects := []orphan.Object{
		{Kind: orphan.KindClaim, Name: "c2", Volume: "2", Site: "a"},
		{Kind: orphan.KindClaim, Name: "c1", Volume: "1", Site: "a"},
		{Kind: orphan.KindLease, Name: "l2", Volume: "2"}, // nobody's, so ours
		{Kind: orphan.KindPod, Name: "p2", Volume: "2", Site: "a"},
		{Kind: orphan.KindPod, Name: "p3", Volume: "3", Site: "b"},
	}
	var names []string
	for _, o := range orphan.Of(objects, "a", []string{"1"}) {
		names = append(names, o.Name)
	}
	if len(names) != 3 || names[0] != "p2" || names[1] != "l2" || names[2] != "c2" {
		t.Errorf("got %v, want what uses a claim before it: [p2 l2 c2]", names)
	}
}
