package holder

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestASignalIsNoDisconnect: poll(2) fails when a signal is pending, also where it would not
// wait. Who took that for a connection that was aborted would abort one that is in use.
func TestASignalIsNoDisconnect(t *testing.T) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer func() { poll = unix.Poll }()
	for name, failure := range map[string]error{"signal": unix.EINTR, "no memory": unix.ENOMEM} {
		failed := false
		poll = func(fds []unix.PollFd, timeout int) (int, error) {
			if failed {
				return unix.Poll(fds, timeout)
			}
			failed = true
			return -1, failure
		}
		if !descriptor(pipe[0]).connected() {
			t.Errorf("%s: taken for a connection that was aborted", name)
		}
	}
	poll = unix.Poll
	if err := unix.Close(pipe[0]); err != nil {
		t.Fatal(err)
	}
	if descriptor(pipe[1]).connected() { // a pipe that nobody reads has an error
		t.Error("an error is not noticed")
	}
	if err := unix.Close(pipe[1]); err != nil {
		t.Fatal(err)
	}
}
