package objectdb

import "errors"

var (
	// ErrFenced: another process has opened the database since, or somebody
	// else has changed its commit object. The database is closed for good.
	ErrFenced = errors.New("database was taken over by another process")
	// ErrTooBig: a transaction that does not fit into one object. Nothing was
	// changed.
	ErrTooBig = errors.New("transaction is too big for one object")
	// ErrDamaged: the objects were edited, deleted or restored by somebody
	// else. The text names the object and says what to do.
	ErrDamaged = errors.New("database objects were changed from outside")
)
