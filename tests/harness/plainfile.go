package harness

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// plainPause is the time between two writes to a plain file.
const plainPause = 10 * time.Millisecond

// Beside runs do, and meanwhile writes one block after the other to a plain file below the
// Env's directory, each synced. It returns the longest time that passed from the end of one
// to the end of the next: what this machine and its disk made, at the same time, of
// something that takes a moment. So that a test may ask for a time that a busy machine
// does not break.
func (e *Env) Beside(do func() error) (longest time.Duration, err error) {
	name := filepath.Join(e.Dir, "plain")
	f, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	var written error
	stop := make(chan struct{})
	var joined sync.WaitGroup
	joined.Go(func() { longest, written = writeUntil(stop, f) })
	err = do()
	close(stop)
	joined.Wait()
	return longest, errors.Join(err, written, f.Close(), os.Remove(name))
}

// writeUntil writes to the first block of a file until stop is closed.
func writeUntil(stop <-chan struct{}, f *os.File) (longest time.Duration, err error) {
	tick := time.NewTicker(plainPause)
	defer tick.Stop()
	block := make([]byte, 4096)
	for last := time.Now(); ; {
		if _, err := f.WriteAt(block, 0); err != nil {
			return longest, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return longest, err
		}
		now := time.Now()
		longest, last = max(longest, now.Sub(last)), now
		select {
		case <-stop:
			return max(longest, time.Since(last)), nil
		case <-tick.C:
		}
	}
}
