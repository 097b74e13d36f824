package fuse

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Transport is how requests come from the kernel.
type Transport string

const (
	// TransportDevice is /dev/fuse: on every kernel, and the session can be
	// taken over by another process.
	TransportDevice Transport = "dev-fuse"
	// TransportRing is FUSE over io_uring, which costs fewer wakeups for each
	// request: from Linux 6.14 on, where the parameter enable_uring of the module
	// fuse is set. The session ends with the process that serves it.
	TransportRing Transport = "io-uring"
)

// ParseTransport reads a Transport; empty is TransportDevice.
func ParseTransport(text string) (Transport, error) {
	switch t := Transport(text); t {
	case "":
		return TransportDevice, nil
	case TransportDevice, TransportRing:
		return t, nil
	}
	return "", fmt.Errorf("transport %q: must be %q or %q", text, TransportDevice, TransportRing)
}

// ProbeRing reports why this process could not serve over TransportRing, whatever
// the kernel offers for a mount: io_uring may be forbidden to it, as in containers
// with the usual seccomp profile. Ask before Handshake: a mount with which the
// transport was negotiated can be served in no other way.
func ProbeRing() error {
	r, err := setUpRing(1, ringSetupWide|ringSetupCoop)
	if err != nil {
		return err
	}
	r.free()
	_, err = possibleCPUs()
	return err
}

// possibleCPUs is how many CPUs the machine can have, and so how many queues a
// connection over io_uring has.
func possibleCPUs() (int, error) {
	text, err := os.ReadFile("/sys/devices/system/cpu/possible")
	if err != nil {
		return 0, fmt.Errorf("count CPUs: %w", err)
	}
	return countCPUs(strings.TrimSpace(string(text)))
}

// countCPUs counts a list as the kernel writes it, such as 0-3,8.
func countCPUs(list string) (count int, err error) {
	for part := range strings.SplitSeq(list, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		first, err := strconv.ParseUint(low, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("count CPUs of %q: %w", list, err)
		}
		last, err := strconv.ParseUint(high, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("count CPUs of %q: %w", list, err)
		}
		if last < first {
			return 0, fmt.Errorf("count CPUs of %q: range ends before it begins", list)
		}
		count += int(last-first) + 1
	}
	return count, nil
}
