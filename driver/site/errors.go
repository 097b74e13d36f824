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
)
