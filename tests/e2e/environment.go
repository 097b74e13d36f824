package e2e

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Environment is what a run was given; README.md lists the variables.
type Environment struct {
	A, B *Cluster // B is nil when there is one cluster only
	// BackingClasses are StorageClasses of both clusters that Lockstep is
	// layered over.
	BackingClasses []string
}

// EnvironmentOf reads the variables that tools/e2e.sh sets, or whoever runs
// the tests without it.
func EnvironmentOf(getenv func(string) string) (*Environment, error) {
	images := Images{Lockstep: getenv("LOCKSTEP_IMAGE"), Tools: getenv("LOCKSTEP_TOOLS_IMAGE")}
	e := &Environment{BackingClasses: strings.Fields(getenv("LOCKSTEP_BACKING_CLASSES"))}
	if getenv("KUBECONFIG_A") == "" || images.Lockstep == "" || images.Tools == "" || len(e.BackingClasses) == 0 {
		return nil, errors.New("KUBECONFIG_A, LOCKSTEP_IMAGE, LOCKSTEP_TOOLS_IMAGE and LOCKSTEP_BACKING_CLASSES are not all set: run `make e2e`, and see tests/e2e/README.md")
	}
	sites := strings.Fields(getenv("LOCKSTEP_KIT_SITES"))
	for i, into := range []**Cluster{&e.A, &e.B} {
		name := string(rune('a' + i))
		kubeconfig := getenv("KUBECONFIG_" + strings.ToUpper(name))
		if kubeconfig == "" {
			continue
		}
		var kit *Kit
		if len(sites) > i {
			site, err := strconv.Atoi(sites[i])
			if err != nil {
				return nil, fmt.Errorf("LOCKSTEP_KIT_SITES: %w", err)
			}
			kit = &Kit{Site: site, Program: getenv("LOCKSTEP_KIT")}
		}
		cluster, err := OpenCluster(name, kubeconfig, images, kit)
		if err != nil {
			return nil, err
		}
		if kit != nil {
			kit.cluster = cluster
		}
		*into = cluster
	}
	return e, nil
}

// Clusters returns those that there are.
func (e *Environment) Clusters() []*Cluster {
	if e.B == nil {
		return []*Cluster{e.A}
	}
	return []*Cluster{e.A, e.B}
}
