package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
	"time"
)

// route is how a site's admin API is reached.
type route interface {
	// dial connects to it.
	dial(ctx context.Context) (net.Conn, error)
	// patience is how long one attempt to connect may take.
	patience() time.Duration
	// address is shown where a site is described.
	address() string
	// where follows "the site" in a sentence.
	where() string
	// unreachable explains why dial failed, and what to do.
	unreachable(err error) string
	// group finds the name that the site has for a group that was asked for.
	group(ctx context.Context, argument string) (string, error)
	// volume finds what the site knows a volume by that was asked for.
	volume(argument string) (string, error)
}

// socketRoute is the path of a Unix socket on this machine.
type socketRoute string

func (r socketRoute) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", string(r))
}

func (r socketRoute) patience() time.Duration { return 5 * time.Second }
func (r socketRoute) address() string         { return string(r) }
func (r socketRoute) where() string           { return "on " + string(r) }

func (r socketRoute) unreachable(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("no lockstep site answers on %s: start `lockstep standalone` or pass --admin", r)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("%s may not be opened by this user: run this as the user that runs the site", r)
	default:
		return fmt.Sprintf("no lockstep site can be reached on %s (%v): pass the site's socket as --admin", r, err)
	}
}

func (r socketRoute) group(_ context.Context, argument string) (string, error) { return argument, nil }
func (r socketRoute) volume(argument string) (string, error)                   { return argument, nil }
