package csiserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/lockstep-csi/lockstep/internal/grpcstop"
)

const (
	// DriverName is the name under which the plugin registers.
	DriverName = "csi.lockstep.dev"
	// socketMode lets only root, or the group that owns the directory, in.
	socketMode = 0o660
	// drainTimeout is how long calls in progress may go on after Run's context
	// ended before their connections are cut.
	drainTimeout = 10 * time.Second
)

// Config is what Run needs.
type Config struct {
	// Endpoint is the socket: a path, or a URL unix:///path. Required.
	Endpoint   string
	DriverName string // empty: DriverName
	Version    string // of the program; required
	// Services; a nil one is not served.
	Controller      csi.ControllerServer
	GroupController csi.GroupControllerServer
	Node            csi.NodeServer
	// Ready returns nil once the services can do their work; nil: at once.
	Ready func(context.Context) error
	Log   *slog.Logger // nil: slog.Default()
}

// SocketPath returns the path that Endpoint means; an error if it is no Unix
// socket.
func (c *Config) SocketPath() (string, error) {
	path := c.Endpoint
	if scheme, rest, ok := strings.Cut(path, ":"); ok {
		if scheme != "unix" {
			return "", fmt.Errorf("CSI endpoint %q: want unix:///path or a path", c.Endpoint)
		}
		path = strings.TrimPrefix(rest, "//")
	}
	if path == "" {
		return "", fmt.Errorf("CSI endpoint %q: want unix:///path or a path", c.Endpoint)
	}
	return path, nil
}

// Validate reports the first field that cannot be used.
func (c *Config) Validate() error {
	if _, err := c.SocketPath(); err != nil {
		return err
	}
	if c.Version == "" {
		return errors.New("CSI server: Version is missing")
	}
	return nil
}

// Run serves until ctx ends, then lets the calls in progress end, and returns
// nil. It replaces a socket that an earlier process left behind, and removes
// its own.
func Run(ctx context.Context, cfg Config) error {
	listener, err := Listen(cfg)
	if err != nil {
		return err
	}
	return Serve(ctx, cfg, listener)
}

// Listen makes the socket, so that callers can connect from then on; Serve
// answers them.
func Listen(cfg Config) (net.Listener, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	path, err := cfg.SocketPath()
	if err != nil {
		return nil, err
	}
	if err := RemoveStale(path); err != nil {
		return nil, fmt.Errorf("listen for CSI: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for CSI: %w", err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for CSI: %w", err), listener.Close())
	}
	return listener, nil
}

// RemoveStale removes a socket that nobody listens on; no error if there is none. What is
// no socket stays, and so does one that a process has: errors.
func RemoveStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("%s is in use by another process", path), conn.Close())
	case errors.Is(err, fs.ErrNotExist):
		return nil // it has just gone
	case !errors.Is(err, syscall.ECONNREFUSED): // somebody who has no time for another call, for example
		return fmt.Errorf("look whether another process uses it: %w", err)
	}
	return os.Remove(path)
}

// Serve is Run on a listener, which it closes.
func Serve(ctx context.Context, cfg Config, listener net.Listener) error {
	if cfg.DriverName == "" {
		cfg.DriverName = DriverName
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	server := grpc.NewServer(grpc.ChainUnaryInterceptor(logCalls(cfg.Log), recoverPanics(cfg.Log)))
	csi.RegisterIdentityServer(server, &identity{cfg: &cfg})
	if cfg.Controller != nil {
		csi.RegisterControllerServer(server, cfg.Controller)
	}
	if cfg.GroupController != nil {
		csi.RegisterGroupControllerServer(server, cfg.GroupController)
	}
	if cfg.Node != nil {
		csi.RegisterNodeServer(server, cfg.Node)
	}
	tasks, ended := errgroup.WithContext(ctx)
	tasks.Go(func() error {
		if err := grpcstop.Ended(server.Serve(listener)); err != nil {
			return fmt.Errorf("serve CSI: %w", err)
		}
		return nil
	})
	tasks.Go(func() error {
		<-ended.Done()
		stop(server)
		return nil
	})
	return tasks.Wait()
}

// stop lets calls end, but not for ever.
func stop(server *grpc.Server) {
	timer := time.AfterFunc(drainTimeout, server.Stop)
	defer timer.Stop()
	server.GracefulStop()
}
