// Command lockstep-engine runs the engine role of a cluster: one volume's
// store. It is a binary of its own because there is one of it for each volume
// in use, and the libraries of Kubernetes, which the other roles link, would be
// most of what it has in memory (docs/decisions/0007).
package main
