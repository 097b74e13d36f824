package site

import "errors"

var (
	// ErrNotFound: no such volume.
	ErrNotFound = errors.New("no such volume")
	// ErrNoHolder: this site was started without a device holder.
	ErrNoHolder = errors.New("this site cannot attach devices")
	// ErrBadStore: a directory that cannot be adopted.
	ErrBadStore = errors.New("not a store to be adopted")
	// ErrNoView: no open view of that id.
	ErrNoView = errors.New("no such view")
	// ErrNoFork: no fork of that name.
	ErrNoFork = errors.New("no such fork")
	// ErrForkExists: there is a fork of that name, or one that was given up.
	ErrForkExists = errors.New("a fork of that name exists")
	// ErrBadFork: a fork that was asked for cannot be as it was.
	ErrBadFork = errors.New("no fork can be made like that")
	// ErrForkClosed: the fork is not in a state in which it could be made production.
	ErrForkClosed = errors.New("the fork cannot be made production")
)
