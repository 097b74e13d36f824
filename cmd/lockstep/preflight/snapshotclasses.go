package preflight

import (
	"context"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func (i *inspection) checkSnapshotClasses(ctx context.Context) {
	for _, kind := range []struct{ check, groupVersion, plural string }{
		{"snapshot class", "snapshot.storage.k8s.io/v1", "volumesnapshotclasses"},
		{"group snapshot class", "groupsnapshot.storage.k8s.io/v1", "volumegroupsnapshotclasses"},
	} {
		if i.serves(kind.groupVersion) {
			i.checkSnapshotClass(ctx, kind.check, kind.groupVersion, kind.plural)
		}
	}
}

// checkSnapshotClass looks for a class of our driver.
func (i *inspection) checkSnapshotClass(ctx context.Context, check, groupVersion, plural string) {
	gv, err := schema.ParseGroupVersion(groupVersion)
	if err != nil {
		i.unseen(check, "", err)
		return
	}
	list, err := i.Dynamic.Resource(gv.WithResource(plural)).List(ctx, metav1.ListOptions{})
	if err != nil {
		i.unseen(check, "", err)
		return
	}
	var names []string
	for _, class := range list.Items {
		if class.Object["driver"] == i.driver {
			names = append(names, class.GetName())
		}
	}
	if len(names) == 0 {
		i.warn(check, "", "none has the driver "+i.driver, "make one, see examples/snapshot.yaml, or set snapshotClasses.create of the chart")
		return
	}
	i.ok(check, "", strings.Join(names, ", "))
}
