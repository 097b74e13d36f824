package kv

import "errors"

// DB is an ordered key-value database with named buckets.
type DB interface {
	// View runs fn in a read-only transaction with a consistent snapshot. fn
	// must not wait for an Update, which may itself wait for a View to end.
	View(fn func(Tx) error) error
	// Update runs fn in a read-write transaction. When it returns nil, all
	// changes are durable; on any error none is, except that after a failed
	// write or sync it is unknown (then every later Update is ErrPoisoned).
	// The error of fn is returned as it is. One Update runs at a time; fn must
	// not call Update.
	Update(fn func(Tx) error) error
	// Close releases the database; open transactions end first.
	Close() error
}

// Settled returns why a database takes no updates any more: ErrPoisoned after one of
// which it is unknown whether its changes are on disk. nil: all that has failed so far
// has left nothing behind. It waits for an Update in progress.
func Settled(db DB) error {
	question := errors.New("only a question")
	if err := db.Update(func(Tx) error { return question }); !errors.Is(err, question) {
		return err
	}
	return nil
}

// Tx is a transaction; it must not be used after the function that received
// it has returned. Slices that it returns are valid until then and must not
// be changed.
type Tx interface {
	// Get returns the value or nil.
	Get(bucket string, key []byte) []byte
	// Put stores a copy of value. An error in a read-only transaction.
	Put(bucket string, key, value []byte) error
	// Delete removes a key; no error if it is not there.
	Delete(bucket string, key []byte) error
	// Range calls fn for keys >= from in ascending order until fn returns
	// false. fn must not change the bucket.
	Range(bucket string, from []byte, fn func(key, value []byte) bool)
	// Buckets returns the names of all buckets that were ever put into, in
	// ascending order.
	Buckets() []string
}
