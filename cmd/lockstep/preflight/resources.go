package preflight

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
)

// The oldest Kubernetes that this version is made for.
const (
	minimumMajor = 1
	minimumMinor = 34
)

func (i *inspection) checkVersion(_ context.Context) {
	const check = "kubernetes"
	version, err := i.Kube.Discovery().ServerVersion()
	if err != nil {
		i.unseen(check, "", err)
		return
	}
	major, _ := strconv.Atoi(version.Major)
	minor, _ := strconv.Atoi(strings.TrimSuffix(version.Minor, "+"))
	if major < minimumMajor || major == minimumMajor && minor < minimumMinor {
		i.fail(check, "", version.GitVersion, fmt.Sprintf("upgrade to %d.%d or later", minimumMajor, minimumMinor))
		return
	}
	i.ok(check, "", version.GitVersion)
}

// resourceSet is a version of an API group, what of it is needed, and for what.
type resourceSet struct {
	groupVersion string
	plurals      []string
	required     bool
	remedy       string
}

var resourceSets = []resourceSet{
	{v1alpha1.GroupVersion.String(), []string{"consistencygroups", "recoveries", "sites"}, true,
		"install Lockstep's custom resources: value crds.install of the chart, or crds.yaml of the manifests"},
	{"snapshot.storage.k8s.io/v1", []string{"volumesnapshots", "volumesnapshotcontents", "volumesnapshotclasses"}, false,
		"for snapshots, install the custom resources of kubernetes-csi/external-snapshotter"},
	{"groupsnapshot.storage.k8s.io/v1", []string{"volumegroupsnapshots", "volumegroupsnapshotcontents", "volumegroupsnapshotclasses"}, false,
		"for group snapshots, install the custom resources of kubernetes-csi/external-snapshotter, version 8.4 or later"},
}

func (i *inspection) checkResources(context.Context) {
	for _, set := range resourceSets {
		i.checkResourceSet(set)
	}
}

func (i *inspection) checkResourceSet(set resourceSet) {
	const check = "custom resources"
	missing, err := i.missingResources(set)
	switch {
	case err != nil:
		i.unseen(check, set.groupVersion, err)
	case len(missing) == 0:
		i.ok(check, set.groupVersion, strings.Join(set.plurals, ", "))
	case set.required:
		i.fail(check, set.groupVersion, "missing: "+strings.Join(missing, ", "), set.remedy)
	default:
		i.warn(check, set.groupVersion, "missing: "+strings.Join(missing, ", "), set.remedy)
	}
}

// missingResources asks the discovery API, which every user may.
func (i *inspection) missingResources(set resourceSet) ([]string, error) {
	list, err := i.Kube.Discovery().ServerResourcesForGroupVersion(set.groupVersion)
	if apierrors.IsNotFound(err) {
		return set.plurals, nil
	}
	if err != nil {
		return nil, err
	}
	served := map[string]bool{}
	for _, r := range list.APIResources {
		served[r.Name] = true
	}
	var missing []string
	for _, plural := range set.plurals {
		if !served[plural] {
			missing = append(missing, plural)
		}
	}
	return missing, nil
}

// serves reports whether all of a group version is there.
func (i *inspection) serves(groupVersion string) bool {
	for _, set := range resourceSets {
		if set.groupVersion == groupVersion {
			missing, err := i.missingResources(set)
			return err == nil && len(missing) == 0
		}
	}
	return false
}
