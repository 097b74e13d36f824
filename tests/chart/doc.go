// Package chart tests what an installation consists of: the Helm chart, the
// manifests that are rendered from it, and the examples. The chart is rendered
// by Helm itself, in the version of tools/versions.env, with default values,
// with those of the tests' clusters, and with odd ones.
//
// What has to be true of every rendering is in invariants_test.go, the rights
// that it gives are in rights_test.go, the values in values_test.go. Where the
// programs of tests/cluster are built, a real API server takes everything.
package chart
