package chart

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/apitest"
)

// The sidecars' programs know every argument that the chart gives them: with
// --version they end after reading them.
func TestSidecarsTakeArguments(t *testing.T) {
	objects := mustRender(t, "@"+kitValues)
	found := 0
	for _, p := range pods(t, objects) {
		if p.role == "engine" { // its command is Lockstep's own, which flags_test.go looks at
			continue
		}
		for _, c := range p.Spec.Containers {
			if len(c.Command) == 0 || c.Command[0] == "/registrar" { // which has no --version
				continue
			}
			found++
			program := apitest.KitPath("libexec", filepath.Base(c.Command[0]))
			if _, err := os.Stat(program); err != nil {
				t.Skipf("whether sidecars know their arguments is not tested: %v; run tests/cluster/cluster build", err)
			}
			if out, err := exec.Command(program, append(c.Args, "--version")...).CombinedOutput(); err != nil {
				t.Errorf("%s %v: %v: %s", c.Name, c.Args, err, out)
			}
		}
	}
	if found != 5 {
		t.Errorf("found %d sidecars, want 5", found)
	}
}
