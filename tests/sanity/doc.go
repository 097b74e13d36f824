// Package sanity runs csi-sanity, the conformance tests of the Kubernetes CSI
// project, against the driver's CSI services over a real socket, with real
// block devices, file systems and mounts.
//
// Nothing may be skipped: the suite fails if a test is. It needs root.
package sanity
