// Package group keeps the write order of volumes that belong together: it
// takes checkpoints over all members by barrier, derives recovery points from
// what every member holds durably, and remembers groups, their settings, role
// and term.
package group
