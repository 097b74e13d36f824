package site

import "errors"

var (
	// ErrNotFound: no such volume.
	ErrNotFound = errors.New("no such volume")
	// ErrInUse: a device is still open, mounted for example.
	ErrInUse = errors.New("device is in use")
	// ErrNoHolder: this site was started without a device holder.
	ErrNoHolder = errors.New("this site cannot attach devices")
	// ErrNoView: no open view of that id.
	ErrNoView = errors.New("no such view")
	// ErrClosed: the site is shutting down.
	ErrClosed = errors.New("site is shutting down")
)
