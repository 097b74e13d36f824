// Package keylock provides mutual exclusion by name: callers that name
// different keys never wait for each other, callers of one key take turns in
// the order in which they asked, and a wait ends with its context.
//
// A Set keeps one entry for each key that is held or waited for, so its size
// is bounded by the number of callers. It owns no goroutine.
package keylock
