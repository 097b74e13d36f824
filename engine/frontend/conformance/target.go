package conformance

// Target is the client's side of a frontend: what a user of the block device
// can do. The suite calls its methods concurrently.
//
// Offsets and lengths are bytes, multiples of 512. An error that stands for a
// failed request wraps the syscall.Errno that the client was given. Buffers
// belong to the caller after the call returns. A Target must not cache: reads
// ask the frontend, and a write that returned has reached it.
type Target interface {
	// Capabilities says what this frontend does not or cannot do. The answer
	// is constant.
	Capabilities() Capabilities

	// ReadAt fills p from off, or fails.
	ReadAt(p []byte, off int64) error

	// WriteAt writes p at off. With fua it returns once p is durable; the
	// suite sets fua only where Capabilities has FUA.
	WriteAt(p []byte, off int64, fua bool) error

	// Flush returns once every write that returned before it is durable.
	Flush() error

	// Discard drops the content of a range, which then reads as zeroes.
	Discard(off, length int64) error

	// WriteZeroes makes a range read as zeroes.
	WriteZeroes(off, length int64) error

	// Size is the size in bytes that the client sees now.
	Size() (int64, error)

	// Close disconnects the client and stops the frontend.
	Close() error
}

// Grower is a Target whose client can learn that its device grew.
type Grower interface {
	// Grow makes the client look at the device's size again, as an
	// administrator would (losetup -c, a new connection). Later calls may
	// use the new part.
	Grow() error
}

// Capabilities describes the honest limits of a frontend.
type Capabilities struct {
	// FUA: a single write can be asked to be durable on return.
	FUA bool

	// WritesDuringFlush: a write that is sent while a flush is in progress
	// does not wait for it. (A kernel file system may hold a file's lock
	// over fsync.) Reads must pass a flush in any case.
	WritesDuringFlush bool

	// ExactErrors: the client sees ENOSPC for a full volume and EROFS or
	// EPERM for a read-only one. Otherwise any error is accepted there.
	ExactErrors bool

	// AtomicBytes is the longest write that reaches the device as one call,
	// at an offset that is a multiple of its length. At least 4096.
	AtomicBytes int

	// DiscardBytes is the alignment at which a discard is sure to reach the
	// device; a multiple of 512, at most 64 KiB.
	DiscardBytes int64

	// Parallel is how many requests are sure to be at the device at once;
	// at least 4.
	Parallel int
}
