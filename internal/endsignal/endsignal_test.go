package endsignal_test

import (
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	_ "github.com/lockstep-csi/lockstep/internal/endsignal"
)

// TestMainThreadIsKept occupies more threads than the process has. The runtime
// takes those that it has before it makes new ones, and so the main thread, too, if
// it may.
func TestMainThreadIsKept(t *testing.T) {
	const many = 64
	threads := make(chan int, many)
	var joined, together sync.WaitGroup
	together.Add(many)
	for range many {
		joined.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			threads <- unix.Gettid()
			together.Done()
			together.Wait()
		})
	}
	joined.Wait()
	close(threads)
	for id := range threads {
		if id == os.Getpid() {
			t.Error("a goroutine other than main's ran on the main thread")
		}
	}
}
