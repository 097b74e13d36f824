// Package harness runs real sites as processes for tests and for the demo: the
// lockstep binary, its CSI services over gRPC, PostgreSQL on published
// volumes. Everything that it starts, mounts or attaches belongs to an Env and
// is undone by its Close, also after a failure.
package harness
