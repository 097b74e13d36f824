// Package groupmetrics says what the figures of a site's groups are called, and
// collects them: for a standalone site, and for the controller of a cluster.
//
// It owns no goroutine that outlives a collection.
package groupmetrics
