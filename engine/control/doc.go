// Package control is the control API of an engine that is a process of its
// own: Server serves it for one Volume, Client calls it. The protocol is
// api/engine/v1/engine.proto; docs/kubernetes.md says who calls what and when.
//
// A Client has the methods that package group asks of a member, so that a
// coordinator takes checkpoints of engines elsewhere as it does of those in
// its own process. Errors keep their identity over the wire: what matches a
// sentinel of packages engine and journal there matches it here.
//
// The package decides nothing: orders are carried out by whoever implements
// Volume, and what a group does is the caller's.
package control
