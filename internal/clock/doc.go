// Package clock is the seam through which the core reads time and waits, so
// that simulations and tests run on a clock of their own.
//
// Wall is the machine's clock. Manual stands still until a test advances it,
// and tells the test when the code under test has begun to wait, so that no
// test has to sleep.
//
// Invariants, of both: a timer fires at most once; after Stop nothing is
// received from it. The package starts no goroutines, and does not hide a
// wall clock that jumps: durations are measured by timers, not by subtracting
// what two calls of Now returned.
package clock
