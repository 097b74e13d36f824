package kv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	// lockTimeout is how long OpenBolt waits for another holder of the file:
	// long enough for one that is just closing it, short enough for a caller
	// that reports the conflict.
	lockTimeout = 200 * time.Millisecond
	boltMode    = 0o600
	// mapBytes is the address space reserved for a database. While the file
	// is smaller an Update never has to map it anew, for which it would wait
	// until every View has ended.
	mapBytes = 64 << 20
	// growBytes is what a new file has, and the step in which it grows. What is
	// added later is sparse, and each step costs a sync.
	growBytes = 1 << 20
	// unfinishedSuffix names a database that is being made.
	unfinishedSuffix = ".new"
)

// OpenBolt opens the Bolt database in the file at path, or makes it with mode
// 0600; its directory must exist. A new database's name is durable on return,
// and a crash while it is made leaves either none or a whole, empty one; so
// that this holds only one caller at a time may make the same path.
//
// ErrLocked if another open has it for longer than a moment. A file that is not
// what Bolt has written, be it damaged, cut or foreign, is ErrCorrupt
// (*CorruptError) or ErrVersion, and is not touched. What happens to the file
// while it is open is not noticed.
func OpenBolt(path string) (DB, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = makeBolt(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	db, err := openBoltFile(path, openChecked)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return &bolt{path: path, db: db}, nil
}

// makeBolt makes an empty database under another name and renames it to path:
// Bolt writes and syncs its first pages after it made the file, so a power
// loss in between would leave an unreadable file.
//
// It is grown to growBytes of written zeroes: a commit into blocks that were
// never written has to wait for the file system's own log, and for all that is
// on the way to it, which a commit over written blocks has not.
func makeBolt(path string) error {
	unfinished := path + unfinishedSuffix
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := openBoltFile(unfinished, os.OpenFile)
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	if err := growBolt(unfinished); err != nil {
		return err
	}
	if err := os.Rename(unfinished, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// growBolt makes the rest of a new database's first growBytes written zeroes.
func growBolt(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Size() < growBytes {
		_, err = f.WriteAt(make([]byte, growBytes-info.Size()), info.Size())
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openBoltFile has Bolt open the file that open returns. open may lock it: the
// lock that Bolt takes is then the same one, because flock(2) belongs to the
// open file.
func openBoltFile(path string, open func(string, int, fs.FileMode) (*os.File, error)) (*bbolt.DB, error) {
	db, err := bbolt.Open(path, boltMode, &bbolt.Options{
		OpenFile: open,
		Timeout:  lockTimeout,
		// The free list is small beside the data, and reading it back is what
		// keeps opening fast.
		NoFreelistSync:  false,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: mapBytes,
		NoStatistics:    true,
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, ErrLocked
	case err != nil:
		return nil, err
	}
	db.AllocSize = growBytes
	return db, nil
}

// bolt adapts bbolt.DB to DB.
type bolt struct {
	path     string
	db       *bbolt.DB
	poisoned atomic.Bool
}

func (b *bolt) View(fn func(Tx) error) error {
	tx, err := b.db.Begin(false)
	if err != nil {
		return fmt.Errorf("begin read of %s: %w", b.path, fromBolt(err))
	}
	defer func() { _ = tx.Rollback() }() // a read transaction has nothing to lose
	return fn(boltTx{tx})
}

func (b *bolt) Update(fn func(Tx) error) error {
	tx, err := b.db.Begin(true)
	if err != nil {
		return fmt.Errorf("begin update of %s: %w", b.path, fromBolt(err))
	}
	// After a commit this does nothing. It also runs when fn panics, which
	// would otherwise leave the database locked for ever.
	defer func() { _ = tx.Rollback() }()
	if b.poisoned.Load() {
		return fmt.Errorf("begin update of %s: %w", b.path, ErrPoisoned)
	}
	if err := fn(boltTx{tx}); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		err = withErrno(err)
		b.poisoned.Store(!neverReachedDisk(err))
		return fmt.Errorf("commit to %s: %w", b.path, err)
	}
	return nil
}

// neverReachedDisk reports whether a commit failed before it could be found
// on disk: a data page did not fit, or the file could not grow. Bolt writes data pages before the meta page
// that makes them current, and the meta page replaces one that has its space;
// it grows the file before either.
//
// Any other failure may have left the new meta page behind. A next commit
// would reuse the pages that it refers to before replacing it, and a crash in
// between would open on them.
func neverReachedDisk(err error) bool {
	var failed *fs.PathError
	return errors.As(err, &failed) && (failed.Op == "write" || failed.Op == "truncate") &&
		(errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT))
}

// resizeError begins what Bolt says when its file could not grow; of the cause it
// keeps the text only.
const resizeError = "file resize error: "

// withErrno gives such an error its errno back, where that is a lack of space.
func withErrno(err error) error {
	text, failed := strings.CutPrefix(err.Error(), resizeError)
	if !failed {
		return err
	}
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT} {
		if strings.HasSuffix(text, errno.Error()) {
			return &fs.PathError{Op: "truncate", Path: strings.TrimSuffix(text, ": "+errno.Error()), Err: errno}
		}
	}
	return err
}

func (b *bolt) Close() error {
	if err := b.db.Close(); err != nil {
		return fmt.Errorf("close database %s: %w", b.path, err)
	}
	return nil
}

func fromBolt(err error) error {
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

type boltTx struct{ tx *bbolt.Tx }

func (t boltTx) Get(bucket string, key []byte) []byte {
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.Get(key)
}

func (t boltTx) Put(bucket string, key, value []byte) error {
	if !t.tx.Writable() {
		return ErrReadOnly
	}
	if err := checkKey(bucket, key); err != nil {
		return err
	}
	b, err := t.tx.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return fmt.Errorf("make bucket %s: %w", bucket, err)
	}
	// Bolt keeps the value until the commit, the caller only for this call.
	// The copy is never nil, so that an empty value is told from no value.
	return b.Put(key, append([]byte{}, value...))
}

func (t boltTx) Delete(bucket string, key []byte) error {
	if !t.tx.Writable() {
		return ErrReadOnly
	}
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.Delete(key)
}

func (t boltTx) Range(bucket string, from []byte, fn func(key, value []byte) bool) {
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return
	}
	c := b.Cursor()
	for k, v := c.Seek(from); k != nil; k, v = c.Next() {
		if !fn(k, v) {
			return
		}
	}
}

func (t boltTx) Buckets() (names []string) {
	c := t.tx.Cursor() // ascending, and of the top level: buckets only
	for name, _ := c.First(); name != nil; name, _ = c.Next() {
		names = append(names, string(name))
	}
	return names
}
