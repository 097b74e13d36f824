package e2e

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// watched are the kinds that a run must leave as they were. Those that a
// cluster does not know are passed over.
var watched = []schema.GroupVersionResource{
	{Version: "v1", Resource: "namespaces"},
	{Version: "v1", Resource: "persistentvolumeclaims"},
	{Version: "v1", Resource: "persistentvolumes"},
	{Group: "storage.k8s.io", Version: "v1", Resource: "volumeattachments"},
	{Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses"},
	{Group: "storage.k8s.io", Version: "v1", Resource: "csidrivers"},
	{Group: "storage.k8s.io", Version: "v1", Resource: "volumeattributesclasses"},
	{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshotclasses"},
	{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshotcontents"},
	{Group: "groupsnapshot.storage.k8s.io", Version: "v1", Resource: "volumegroupsnapshotclasses"},
	{Group: "groupsnapshot.storage.k8s.io", Version: "v1", Resource: "volumegroupsnapshotcontents"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
	{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
	{Group: "scheduling.k8s.io", Version: "v1", Resource: "priorityclasses"},
	{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"},
}

// Inventory is what a cluster holds of the kinds that a run must leave as they
// were.
type Inventory map[string]bool

// TakeInventory lists a cluster's objects.
func (c *Cluster) TakeInventory(ctx context.Context) (Inventory, error) {
	found := Inventory{}
	for _, kind := range watched {
		list, err := c.Dynamic.Resource(kind).List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list %s of cluster %s: %w", kind.Resource, c.Name, err)
		}
		for _, object := range list.Items {
			name := object.GetName()
			if ns := object.GetNamespace(); ns != "" {
				name = ns + "/" + name
			}
			found[kind.Resource+" "+name] = true
		}
	}
	return found, nil
}

// Leftovers waits until a cluster holds nothing that was not there before, for
// cleanTimeout at most, and returns an error that names the rest.
func (c *Cluster) Leftovers(ctx context.Context, before Inventory) error {
	return Await(ctx, cleanTimeout, "what was made in cluster "+c.Name+" to go", func(ctx context.Context) error {
		now, err := c.TakeInventory(ctx)
		if err != nil {
			return err
		}
		return now.since(before)
	})
}

// since names what was not there before.
func (i Inventory) since(before Inventory) error {
	var errs []error
	for name := range i {
		if !before[name] {
			errs = append(errs, fmt.Errorf("left behind: %s", name))
		}
	}
	return errors.Join(errs...)
}
