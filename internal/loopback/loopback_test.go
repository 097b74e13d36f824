package loopback

import (
	"net"
	"testing"
)

// TestNoConnectionTakesAnAddress: however many connections there are to an
// address, of this program and of others, they come from somewhere else, and a
// port is given out once.
func TestNoConnectionTakesAnAddress(t *testing.T) {
	if ip := net.ParseIP(Host()); ip == nil || !ip.IsLoopback() || Host() == "127.0.0.1" {
		t.Fatalf("host %s", Host())
	}
	l, err := net.Listen("tcp", net.JoinHostPort(Host(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	seen := make(map[string]bool)
	for range 200 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if from := c.LocalAddr().(*net.TCPAddr).IP.String(); from == Host() {
			t.Fatalf("a connection comes from %s, whose ports it may take", from)
		}
		free, err := Free()
		if err != nil {
			t.Fatal(err)
		}
		if seen[free] {
			t.Fatalf("%s was given out twice", free)
		}
		seen[free] = true
		again, err := net.Listen("tcp", free)
		if err != nil {
			t.Fatal(err)
		}
		again.Close()
	}
}
