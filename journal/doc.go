// Package journal is the store of one volume: a base image overlaid with an
// ordered journal of records, so that any position of the recent past can be
// opened, forked or shipped without a copy.
package journal
