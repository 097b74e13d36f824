package cluster

import (
	"fmt"
	"regexp"
	"strings"
)

// A volume's id, and what a provisioner calls its PersistentVolumes unless it is told
// otherwise.
var volumeID = regexp.MustCompile(`^[0-9a-f]{32}$`)

const persistentVolumeMark = "pvc-"

// ResolveVolume finds what the controller knows the volume by that argument means:
// NAMESPACE/NAME of its claim, for NAME in kubectl's current namespace, NAMESPACE/NAME,
// and either of them behind pvc:; otherwise argument itself, which is the volume's id or
// begins as the name of a PersistentVolume does. It asks nobody.
func (c *Cluster) ResolveVolume(argument string) (string, error) {
	name, isClaim := strings.CutPrefix(argument, claimMark)
	if !isClaim && (volumeID.MatchString(name) || strings.HasPrefix(name, persistentVolumeMark) && !strings.Contains(name, "/")) {
		return name, nil
	}
	namespace, claim, found := strings.Cut(name, "/")
	if !found {
		namespace, claim = c.Namespace, name
	}
	if namespace == "" || claim == "" || strings.Contains(claim, "/") {
		return "", &BadNameError{fmt.Sprintf("%q names no volume: want CLAIM, NAMESPACE/CLAIM, pvc:CLAIM, pvc:NAMESPACE/CLAIM, or the volume's id", argument)}
	}
	return namespace + "/" + claim, nil
}
