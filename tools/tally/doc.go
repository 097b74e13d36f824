// Command tally reads the JSON stream of `go test -json` on standard input and
// tells what became of the tests: the output of those that failed, every skip
// with its reason, a line per package, and last of all
//
//	failed: TestName (package)
//	    name_test.go:17: what it said
//	N passed, N failed, N skipped
//
// What a failed test said with t.Error, t.Fatal and t.Log is repeated there, and what
// its process said when it died, without all else that it printed and within bounds,
// so that the end of a log that was cut off says why.
//
// Only tests without subtests count, so that a table of ten cases is ten tests
// and not eleven. A test with subtests counts as failed when it failed although
// all of its subtests passed. So do a test that never ended, because its
// process died, and a package that failed without a failed test, for example
// because it does not build. The exit status is 1 when anything failed, when
// nothing ran, or when the stream cannot be read.
//
// With -summary FILE these last lines go to FILE instead, for a caller that has
// something to do before it prints them.
package main
