// Package sanity runs csi-sanity, the conformance tests of the Kubernetes CSI
// project, against the driver's CSI services over a real socket, with real
// block devices, file systems and mounts; and, as csi-sanity does not look at
// them, restores of group members.
//
// Nothing may be skipped: the suite fails if a test is. It needs root. Sites
// run on plain loop devices (startLoop), which tests the services apart from
// the journal, or whole (startStandalone). Ginkgo runs a suite once in a
// process, so -count must be 1.
package sanity
