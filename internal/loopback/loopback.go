package loopback

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
)

// maxPID is above every process number of Linux (PID_MAX_LIMIT in proc(5)).
const maxPID = 1 << 22

// Host is the address of 127.0.0.0/8 that belongs to this process while it lives.
func Host() string {
	pid := os.Getpid() % maxPID
	return net.IPv4(127, 64+byte(pid>>16), byte(pid>>8), byte(pid)).String() // 127.64.0.1 to 127.127.255.255
}

var (
	mu    sync.Mutex
	given = make(map[int]bool) // guarded by mu: ports of Host
)

// FreePort returns a port of Host that nobody listens at, and that it has not
// returned before. It may be called concurrently.
func FreePort() (int, error) {
	mu.Lock()
	defer mu.Unlock()
	for {
		l, err := net.Listen("tcp", net.JoinHostPort(Host(), "0"))
		if err != nil {
			return 0, fmt.Errorf("find free port: %w", err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			return 0, fmt.Errorf("find free port: %w", err)
		}
		if !given[port] {
			given[port] = true
			return port, nil
		}
	}
}

// Free returns host:port of a FreePort.
func Free() (string, error) {
	port, err := FreePort()
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(Host(), strconv.Itoa(port)), nil
}
