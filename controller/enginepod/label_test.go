package enginepod_test

import (
	"testing"

	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

func TestAnEngineIsLabelledWithItsGroup(t *testing.T) {
	r := newRig(t)
	s := spec("node1")
	s.Group = "prod/shop"
	done := r.start(s)
	r.run(r.pod(exists), "node1")
	<-done
	for _, group := range []string{"prod/shop", "prod/bank"} {
		s.Group = group
		if _, err := r.engines.Run(r.ctx(), s); err != nil {
			t.Fatal(err)
		}
		if got := r.pod(exists).Labels[kubenames.LabelGroup]; got != kubenames.GroupHash(group) {
			t.Errorf("group %s: label %q", group, got)
		}
	}
}
