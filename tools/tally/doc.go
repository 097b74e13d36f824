// Command tally reads the JSON stream of `go test -json` on standard input and
// tells what became of the tests: the output of those that failed, every skip
// with its reason, a line per package, and last of all
//
//	N passed, N failed, N skipped
//
// Only tests without subtests count, so that a table of ten cases is ten tests
// and not eleven. A test with subtests counts as failed when it failed although
// all of its subtests passed. So do a test that never ended, because its
// process died, and a package that failed without a failed test, for example
// because it does not build. The exit status is 1 when anything failed, when
// nothing ran, or when the stream cannot be read.
//
// With -summary FILE the last line goes to FILE instead, for a caller that has
// something to do before it prints it.
package main
