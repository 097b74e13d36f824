// Command csi shows what an orchestrator does with a Lockstep site: it makes a
// consistency group of two volumes over CSI, mounts them, takes a snapshot of
// both at once, and with -remove takes everything away again. See README.md.
//
// It is an example to read and to try a site with. Every call that it makes
// is idempotent, so that it can be run again after a failure at any point.
package main
