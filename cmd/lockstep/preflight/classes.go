package preflight

import (
	"context"
	"fmt"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/controller"
)

// noProvisioner is the provisioner of classes whose volumes people make.
const noProvisioner = "kubernetes.io/no-provisioner"

func (i *inspection) checkClasses(ctx context.Context) {
	const check = "storage class"
	list, err := i.Kube.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		i.unseen(check, "", err)
		return
	}
	byName := map[string]*storagev1.StorageClass{}
	for n := range list.Items {
		byName[list.Items[n].Name] = &list.Items[n]
	}
	ours := 0
	for n := range list.Items {
		class := &list.Items[n]
		if class.Provisioner != i.driver {
			continue
		}
		ours++
		if class.Parameters[controller.ParameterBackingClass] == "" {
			i.fail(check, class.Name, "it has no "+controller.ParameterBackingClass, "name the class that volumes are to live on: parameters of a class cannot be changed, make it anew")
			continue
		}
		for _, key := range []string{controller.ParameterBackingClass, controller.ParameterJournalClass} {
			if name := class.Parameters[key]; name != "" {
				i.checkBacking(class, key, name, byName[name])
			}
		}
	}
	if ours == 0 {
		i.warn(check, "", "none has the provisioner "+i.driver, "make one, see examples/storageclass.yaml")
	}
}

// checkBacking looks at what a class of ours is layered over; backing is nil
// when it does not exist.
func (i *inspection) checkBacking(class *storagev1.StorageClass, key, name string, backing *storagev1.StorageClass) {
	const check = "backing class"
	object := class.Name + " over " + name
	switch {
	case backing == nil:
		i.fail(check, object, key+" "+name+" does not exist", "name a class that the cluster has")
	case backing.Provisioner == i.driver:
		i.fail(check, object, name+" is a class of Lockstep's own", "name one of another driver")
	case backing.Provisioner == noProvisioner:
		i.warn(check, object, name+" makes no volumes", "make a PersistentVolume for each volume beforehand, or name a class that does")
	case bindsLate(backing) && !bindsLate(class):
		i.fail(check, object, fmt.Sprintf("%s binds at the first consumer, and %s at once: nobody says on which node", name, class.Name),
			"make "+class.Name+" anew with volumeBindingMode: WaitForFirstConsumer")
	case allowsExpansion(class) && !allowsExpansion(backing):
		i.warn(check, object, class.Name+" promises expansion, and "+name+" does not allow it", "set allowVolumeExpansion on "+name+", if its driver can, or take it from "+class.Name)
	default:
		i.ok(check, object, backing.Provisioner+", "+bindingMode(backing))
	}
}

func bindsLate(class *storagev1.StorageClass) bool {
	return bindingMode(class) == string(storagev1.VolumeBindingWaitForFirstConsumer)
}

func bindingMode(class *storagev1.StorageClass) string {
	if class.VolumeBindingMode == nil {
		return string(storagev1.VolumeBindingImmediate)
	}
	return string(*class.VolumeBindingMode)
}

func allowsExpansion(class *storagev1.StorageClass) bool {
	return class.AllowVolumeExpansion != nil && *class.AllowVolumeExpansion
}
