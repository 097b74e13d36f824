// Package preflight looks whether a cluster has what Lockstep's volumes need:
// versions, custom resources, the pods of Lockstep, classes, and Secrets of
// peers. It reads only, with the rights of whoever runs it; what these do not
// allow to look at becomes a warning.
package preflight
