package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// startTimeout is how long a site may take to answer.
const startTimeout = 30 * time.Second

// unmountTimeout is how long a site's file systems may take to write what they
// have cached before they are taken away without.
const unmountTimeout = 5 * time.Second

// SiteConfig describes a site to be run.
type SiteConfig struct {
	Name   string
	Root   string            // empty: a directory of the Env
	Listen string            // host:port; empty: no gateway
	Peers  map[string]string // host:port by site
	TLSDir string
	// Transport is the site's --fuse-transport; empty: the default.
	Transport string
	Metrics   string // host:port; empty: none
}

// Site is a lockstep process.
type Site struct {
	Config SiteConfig
	Admin  adminv1.AdminClient
	CSI    *grpc.ClientConn
	// AdminSocket is what the CLI's --admin wants.
	AdminSocket string

	env    *Env
	cmd    *exec.Cmd
	exited chan error
	conns  []*grpc.ClientConn
}

// StartSite runs a site and waits until it answers.
func (e *Env) StartSite(ctx context.Context, cfg SiteConfig) (*Site, error) {
	if cfg.Root == "" {
		cfg.Root = e.Path(cfg.Name)
	}
	s := &Site{Config: cfg, env: e, AdminSocket: cfg.Root + "/admin.sock"}
	if err := os.MkdirAll(cfg.Root, 0o711); err != nil {
		return nil, err
	}
	for _, c := range []struct {
		socket string
		conn   **grpc.ClientConn
	}{{s.AdminSocket, nil}, {cfg.Root + "/csi.sock", &s.CSI}} {
		conn, err := grpc.NewClient("unix://"+c.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, err
		}
		s.conns = append(s.conns, conn)
		if c.conn != nil {
			*c.conn = conn
		} else {
			s.Admin = adminv1.NewAdminClient(conn)
		}
	}
	e.Undo(s.destroy)
	return s, s.Start(ctx)
}

// Start runs the process, again if it was killed, and waits until it answers.
func (s *Site) Start(ctx context.Context) error {
	log, err := os.OpenFile(s.env.Path(s.Config.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(s.env.Bin, s.Args()...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	// Signals of a terminal are for whoever runs the harness, which stops the
	// site in its own time.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start site %s: %w", s.Config.Name, err)
	}
	exited := make(chan error, 1)
	go func(cmd *exec.Cmd) { exited <- cmd.Wait() }(s.cmd)
	s.exited = exited
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err = Until(ctx, 20*time.Millisecond, func() error {
		select {
		case err := <-exited:
			exited <- err
			cancel()
			return fmt.Errorf("it ended: %v: %s", err, s.LogTail())
		default:
		}
		if _, err := os.Stat(s.AdminSocket); err != nil {
			return err
		}
		for _, c := range s.conns {
			c.ResetConnectBackoff()
		}
		if _, err := s.Admin.GetStatus(ctx, &adminv1.GetStatusRequest{}); err != nil {
			return err
		}
		_, err := csi.NewIdentityClient(s.CSI).Probe(ctx, &csi.ProbeRequest{}) // it listens for itself
		return err
	})
	if err != nil {
		return fmt.Errorf("start site %s: %w", s.Config.Name, err)
	}
	return nil
}

// Args returns the arguments that the process is run with.
func (s *Site) Args() []string {
	args := []string{"standalone", "--site", s.Config.Name, "--root", s.Config.Root, "--node-id", "node-" + s.Config.Name,
		"--csi-endpoint", "unix://" + s.Config.Root + "/csi.sock", "--admin", s.AdminSocket}
	if s.Config.Listen != "" {
		args = append(args, "--listen", s.Config.Listen)
	}
	if s.Config.TLSDir != "" {
		args = append(args, "--tls-dir", s.Config.TLSDir)
	}
	if s.Config.Transport != "" {
		args = append(args, "--fuse-transport", s.Config.Transport)
	}
	if s.Config.Metrics != "" {
		args = append(args, "--metrics-addr", s.Config.Metrics)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Config.Peers)) {
		args = append(args, "--peer", name+"="+s.Config.Peers[name])
	}
	return args
}

// PID is the process that runs; 0 if none does.
func (s *Site) PID() int {
	if s.cmd == nil || s.cmd.Process == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

// Stop ends the process in order, or with SIGKILL as a crash would. It returns
// when the process is gone.
func (s *Site) Stop(sig syscall.Signal) error {
	if s.PID() == 0 {
		return nil
	}
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-s.exited:
		s.cmd = nil
		if sig == syscall.SIGKILL || err == nil {
			return nil
		}
		return fmt.Errorf("site %s ended: %w", s.Config.Name, err)
	case <-time.After(startTimeout):
		return fmt.Errorf("site %s did not end on %v: %s", s.Config.Name, sig, s.LogTail())
	}
}

// Lose is a power loss as far as one machine can show it: the site and its
// device holder are killed, and its devices with them.
func (s *Site) Lose() error {
	if err := s.Stop(syscall.SIGKILL); err != nil {
		return err
	}
	return s.dropDevices()
}

// dropDevices makes the holder detach everything and end, and waits until it has.
func (s *Site) dropDevices() error {
	if err := s.failDevices(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	// The holder's directory is free of mounts when its socket is gone.
	return Until(ctx, 20*time.Millisecond, func() error {
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			return err
		}
		if strings.Contains(string(mounts), s.Config.Root+"/devices/") {
			return fmt.Errorf("devices of site %s are still mounted", s.Config.Name)
		}
		return nil
	})
}

// failDevices makes the holder end: what waits for its devices fails, and they
// are gone with their last user.
func (s *Site) failDevices() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	c, err := holder.Dial(ctx, s.Config.Root+"/holder.sock")
	if err != nil {
		return nil // no holder, no devices
	}
	defer c.Close()
	return c.Shutdown(ctx)
}

// destroy ends the site and everything it holds.
func (s *Site) destroy() error {
	// While the site serves, its file systems can write what they have cached.
	// One that was killed does not, and unmounting waits until its devices fail.
	unmounted := make(chan error, 1)
	go func() { unmounted <- s.env.unmountBelow(s.mountDir()) }()
	var err error
	waiting := false
	select {
	case err = <-unmounted:
	case <-time.After(unmountTimeout):
		waiting = true
	}
	stopped := s.Stop(syscall.SIGTERM)
	if stopped != nil {
		stopped = errors.Join(stopped, s.Stop(syscall.SIGKILL))
	}
	err = errors.Join(err, stopped)
	for _, c := range s.conns {
		err = errors.Join(err, c.Close())
	}
	err = errors.Join(err, s.failDevices())
	if waiting {
		err = errors.Join(err, <-unmounted)
	}
	// A call that was cancelled may have mounted something after all; now
	// that the site has ended nothing comes after this.
	return errors.Join(err, s.env.unmountBelow(s.mountDir()), s.dropDevices())
}

// mountDir is where CSI's paths of the site's volumes are.
func (s *Site) mountDir() string { return s.env.Path("mnt", s.Config.Name) }

// LogTail returns the last lines of the site's log.
func (s *Site) LogTail() string { return tail(s.env.Path(s.Config.Name + ".log")) }

// Pid is the process's id; 0 while it does not run.
func (s *Site) Pid() int {
	if s.cmd == nil || s.cmd.Process == nil {
		return 0
	}
	return s.cmd.Process.Pid
}
