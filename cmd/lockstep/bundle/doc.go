// Package bundle writes support bundles: an archive of what somebody who was
// not there needs to see what is wrong with Lockstep in a cluster.
//
// It has Lockstep's custom resources, pods, classes, claims, volumes, events,
// the controller's catalog, and the logs of Lockstep's pods. It has no content
// of a Secret, which is not even fetched; no value of an environment variable,
// no annotation that is neither Kubernetes' nor Lockstep's, and nothing of
// applications but the names of claims and what uses them. clean.go is where
// this is seen to.
//
// What cannot be read is listed in the archive instead.
package bundle
