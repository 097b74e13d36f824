package chart

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The flags that the chart passes are those that docs/kubernetes.md specifies
// for the role.
func TestFlagsAreSpecified(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/kubernetes.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## Flags\n")
	if !found {
		t.Fatal("docs/kubernetes.md has no section Flags")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	common, table, _ := strings.Cut(section, "\n| role |")
	specified := map[string]string{} // by role
	role := ""
	for _, line := range strings.Split(table, "\n") {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			if name := strings.TrimSpace(cells[1]); name != "" {
				role = name
			}
			specified[role] += cells[2]
		}
	}
	flag := regexp.MustCompile("^--[a-z-]+")
	values := everything + "node: {maxVolumes: 100, fuseTransport: io-uring}\n"
	for _, p := range pods(t, mustRender(t, values)) {
		c := p.Spec.Containers[0]
		if c.Name != p.role || p.role == "snapshot-controller" {
			continue
		}
		args := c.Args
		switch {
		case p.role == "engine": // a binary of its own
			if len(c.Command) != 1 || c.Command[0] != "/usr/local/bin/lockstep-engine" {
				t.Errorf("engine runs %v", c.Command)
			}
		case len(args) == 0 || args[0] != p.role:
			t.Errorf("%s runs with %v, want its subcommand first", p.role, args)
			continue
		default:
			args = args[1:]
		}
		for _, arg := range args {
			if name := "`" + flag.FindString(arg); !strings.Contains(specified[p.role], name+"`") && !strings.Contains(common, name) {
				t.Errorf("%s gets %s, which is not specified for it", p.role, arg)
			}
		}
	}
}
