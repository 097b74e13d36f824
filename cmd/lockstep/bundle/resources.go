package bundle

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// scope is where objects of a resource are looked for.
type scope int

const (
	everywhere scope = iota // cluster-scoped, or in all namespaces
	driverOnly              // in the driver's namespace
)

// source is one file of a bundle: the objects of a resource that keep takes.
type source struct {
	resource schema.GroupVersionResource
	scope    scope
	selector string
	file     string // default: resources/GROUP/RESOURCE.yaml
	keep     func(*gathered, *unstructured.Unstructured) bool
	optional bool // the resource need not exist
}

// gathered is what earlier sources have found, for later ones.
type gathered struct {
	driver, namespace string
	classes, volumes  map[string]bool // StorageClasses and PersistentVolumes of the driver
	under             map[string]bool // PersistentVolumes that its stores are on
	subjects          map[string]bool // NAMESPACE/NAME of claims, groups and recoveries that were taken
}

func core(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: resource}
}

func grouped(group, version, resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: version, Resource: resource}
}

// sources are in an order in which each finds what it depends on.
var sources = []source{
	{resource: v1alpha1.GroupVersion.WithResource("consistencygroups"), keep: takeSubject},
	{resource: v1alpha1.GroupVersion.WithResource("recoveries"), keep: takeSubject},
	{resource: v1alpha1.GroupVersion.WithResource("sites")},
	{resource: core("nodes")},
	{resource: grouped("storage.k8s.io", "v1", "csidrivers")},
	{resource: grouped("storage.k8s.io", "v1", "csinodes")},
	{resource: grouped("storage.k8s.io", "v1", "storageclasses"), keep: takeClass},
	{resource: grouped("storage.k8s.io", "v1", "csistoragecapacities"), scope: driverOnly},
	{resource: core("persistentvolumes"), keep: takeVolume},
	{resource: grouped("storage.k8s.io", "v1", "volumeattachments"), keep: takeAttachment},
	{resource: core("persistentvolumeclaims"), keep: takeClaim},
	{resource: grouped("snapshot.storage.k8s.io", "v1", "volumesnapshotclasses"), optional: true},
	{resource: grouped("snapshot.storage.k8s.io", "v1", "volumesnapshotcontents"), keep: ofDriver, optional: true},
	{resource: grouped("groupsnapshot.storage.k8s.io", "v1", "volumegroupsnapshotclasses"), optional: true},
	{resource: grouped("groupsnapshot.storage.k8s.io", "v1", "volumegroupsnapshotcontents"), keep: ofDriver, optional: true},
	{resource: core("pods"), scope: driverOnly},
	{resource: core("services"), scope: driverOnly},
	{resource: grouped("apps", "v1", "statefulsets"), scope: driverOnly},
	{resource: grouped("apps", "v1", "daemonsets"), scope: driverOnly},
	{resource: grouped("apps", "v1", "deployments"), scope: driverOnly},
	{resource: grouped("policy", "v1", "poddisruptionbudgets"), scope: driverOnly},
	{resource: grouped("coordination.k8s.io", "v1", "leases"), scope: driverOnly},
	{resource: core("configmaps"), scope: driverOnly, selector: kubenames.LabelCatalog, file: "catalog.yaml"},
	{resource: core("events"), keep: takeEvent},
}

// resources adds one file for each resource. It fails only when the archive
// cannot be written.
func (b *writer) resources(ctx context.Context) error {
	g := &gathered{driver: b.Driver, namespace: b.Cluster.DriverNamespace, classes: map[string]bool{}, volumes: map[string]bool{}, under: map[string]bool{}, subjects: map[string]bool{}}
	for _, s := range sources {
		name := s.resource.Resource
		if s.resource.Group != "" {
			name += "." + s.resource.Group
		}
		list, err := b.list(ctx, s)
		if s.optional && apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			b.missing(name, err)
			continue
		}
		text, err := document(list.Items, func(o *unstructured.Unstructured) bool { return s.keep == nil || s.keep(g, o) })
		if err != nil {
			b.missing(name, err)
			continue
		}
		file := s.file
		if file == "" {
			file = "resources/" + name + ".yaml"
		}
		if err := b.add(file, text); err != nil {
			return err
		}
	}
	return nil
}

func (b *writer) list(ctx context.Context, s source) (*unstructured.UnstructuredList, error) {
	options := metav1.ListOptions{LabelSelector: s.selector}
	if s.scope == driverOnly {
		return b.Cluster.Dynamic.Resource(s.resource).Namespace(b.Cluster.DriverNamespace).List(ctx, options)
	}
	return b.Cluster.Dynamic.Resource(s.resource).List(ctx, options)
}

// document is a stream of YAML documents, one for each object that keep takes.
func document(objects []unstructured.Unstructured, keep func(*unstructured.Unstructured) bool) ([]byte, error) {
	var all []byte
	for n := range objects {
		o := &objects[n]
		if !keep(o) {
			continue
		}
		clean(o)
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", o.GetName(), err)
		}
		all = append(append(all, "---\n"...), text...)
	}
	return all, nil
}

func takeSubject(g *gathered, o *unstructured.Unstructured) bool {
	g.subjects[o.GetNamespace()+"/"+o.GetName()] = true
	return true
}

// takeClass takes every class, since one of ours is layered over any.
func takeClass(g *gathered, o *unstructured.Unstructured) bool {
	if o.Object["provisioner"] == g.driver {
		g.classes[o.GetName()] = true
	}
	return true
}

// takeVolume takes the driver's volumes and those that its stores are on.
func takeVolume(g *gathered, o *unstructured.Unstructured) bool {
	driver, _, _ := unstructured.NestedString(o.Object, "spec", "csi", "driver")
	if driver == g.driver {
		g.volumes[o.GetName()] = true
		return true
	}
	namespace, _, _ := unstructured.NestedString(o.Object, "spec", "claimRef", "namespace")
	g.under[o.GetName()] = namespace == g.namespace
	return g.under[o.GetName()]
}

// takeAttachment takes those of the volumes that were taken.
func takeAttachment(g *gathered, o *unstructured.Unstructured) bool {
	volume, _, _ := unstructured.NestedString(o.Object, "spec", "source", "persistentVolumeName")
	return g.volumes[volume] || g.under[volume]
}

// takeClaim takes the claims of the driver's volumes and classes, and those
// that its stores are on.
func takeClaim(g *gathered, o *unstructured.Unstructured) bool {
	volume, _, _ := unstructured.NestedString(o.Object, "spec", "volumeName")
	class, _, _ := unstructured.NestedString(o.Object, "spec", "storageClassName")
	if o.GetNamespace() != g.namespace && !g.volumes[volume] && !g.classes[class] {
		return false
	}
	return takeSubject(g, o)
}

func ofDriver(g *gathered, o *unstructured.Unstructured) bool {
	driver, _, _ := unstructured.NestedString(o.Object, "spec", "driver")
	return driver == g.driver
}

// takeEvent takes those of the driver's namespace, and those about claims,
// groups and recoveries that were taken.
func takeEvent(g *gathered, o *unstructured.Unstructured) bool {
	if o.GetNamespace() == g.namespace {
		return true
	}
	kind, _, _ := unstructured.NestedString(o.Object, "involvedObject", "kind")
	name, _, _ := unstructured.NestedString(o.Object, "involvedObject", "name")
	return strings.Contains(" PersistentVolumeClaim ConsistencyGroup Recovery ", " "+kind+" ") && g.subjects[o.GetNamespace()+"/"+name]
}
