// Package roleflags is what the command lines of all roles have in common: the
// flags of the log and of the probes, the checks of what they were given, and
// the error that means misuse. Both binaries use it, so it imports nothing of
// Kubernetes.
package roleflags
