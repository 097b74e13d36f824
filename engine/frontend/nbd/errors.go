package nbd

import "errors"

var (
	// ErrExportExists: Add with a name that is in use.
	ErrExportExists = errors.New("export exists")
	// ErrNoExport: Remove of a name that is not registered, or a client that
	// asked for one with EXPORT_NAME, which leaves no other answer than to
	// disconnect.
	ErrNoExport = errors.New("no such export")
	// ErrBadName: an export name or description that the protocol does not
	// allow: longer than maxNameBytes, not UTF-8, or with a NUL in it.
	ErrBadName = errors.New("bad export name or description")
	// ErrProtocol: the client broke a rule of the protocol after which the
	// byte stream cannot be trusted. The connection is closed.
	ErrProtocol = errors.New("protocol violation")
	// ErrTooManyConnections: a client was turned away because
	// Config.MaxConnections are open.
	ErrTooManyConnections = errors.New("too many connections")
)
