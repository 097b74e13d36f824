package nbd

import (
	"fmt"
	"time"
)

// Config is what a Server can be told. The zero value is a good server.
type Config struct {
	// MaxConnections is how many clients may be connected at once, over all
	// exports; more are turned away. 0 means 64.
	MaxConnections int

	// Workers is how many requests of one connection may be at the device or
	// have replies waiting to be sent; further ones wait in the socket. 0
	// means 64.
	Workers int

	// HandshakeTimeout is how long a client may take from connecting to the
	// transmission phase. 0 means 10 seconds.
	HandshakeTimeout time.Duration

	// DrainTimeout is how long Serve, once its context has ended, and Remove let
	// requests in flight finish before they cancel them and disconnect. 0
	// means 5 seconds.
	DrainTimeout time.Duration

	// OnDisconnect, when set, is told why a connection ended otherwise than
	// by its client's wish: the export's name ("" before one was chosen) and
	// the reason. It is called from the connection's goroutine, or, for a
	// client that was turned away, from Serve's: it must not block, or nobody
	// else gets in.
	OnDisconnect func(export string, reason error)
}

// Validate reports the first field that is out of range.
func (c Config) Validate() error {
	switch {
	case c.MaxConnections < 0:
		return fmt.Errorf("field MaxConnections is %d, want 0 or more", c.MaxConnections)
	case c.Workers < 0:
		return fmt.Errorf("field Workers is %d, want 0 or more", c.Workers)
	case c.HandshakeTimeout < 0:
		return fmt.Errorf("field HandshakeTimeout is %v, want 0 or more", c.HandshakeTimeout)
	case c.DrainTimeout < 0:
		return fmt.Errorf("field DrainTimeout is %v, want 0 or more", c.DrainTimeout)
	}
	return nil
}

// withDefaults replaces zero fields by what they mean.
func (c Config) withDefaults() Config {
	if c.MaxConnections == 0 {
		c.MaxConnections = 64
	}
	if c.Workers == 0 {
		c.Workers = 64
	}
	if c.HandshakeTimeout == 0 {
		c.HandshakeTimeout = 10 * time.Second
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = 5 * time.Second
	}
	if c.OnDisconnect == nil {
		c.OnDisconnect = func(string, error) {}
	}
	return c
}
