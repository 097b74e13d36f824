package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-csi/lockstep/internal/loopback"
)

// postgresUser is whom the server runs as: it refuses to run as root.
const postgresUser = "postgres"

// Database is the database that InitPostgres' first start makes.
const Database = "shop"

// Postgres is a PostgreSQL server whose data directory and WAL are where the
// caller wants them, each below a mount point. fsync and full_page_writes are
// on, as they are by default.
type Postgres struct {
	Port int // on loopback.Host, and in the name of the socket

	env        *Env
	bin        string // directory of the programs
	credential *syscall.Credential
	data, wal  string
	sockets    string
	log        string
	server     *exec.Cmd
	exited     chan error
}

// PostgresBin returns the directory of the newest PostgreSQL's programs as
// Debian installs them.
func PostgresBin() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return "", errors.New("PostgreSQL is not installed: no /usr/lib/postgresql/*/bin/postgres")
	}
	slices.SortFunc(found, func(a, b string) int { return version(a) - version(b) })
	return filepath.Dir(found[len(found)-1]), nil
}

func version(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))) // 0: older than any
	return n
}

// InitPostgres makes a database cluster with its data below the mount point
// data and its WAL below wal. It does not start it.
func (e *Env) InitPostgres(ctx context.Context, name, data, wal string) (*Postgres, error) {
	p, err := e.newPostgres(name)
	if err != nil {
		return nil, err
	}
	p.data, p.wal = filepath.Join(data, "data"), filepath.Join(wal, "wal")
	for _, dir := range []string{p.data, p.wal} {
		if err := p.mkdir(dir, 0o700); err != nil {
			return nil, err
		}
	}
	_, err = p.run(ctx, "initdb", "--pgdata", p.data, "--waldir", p.wal, "--auth", "trust", "--username", postgresUser,
		"--encoding", "UTF8", "--locale", "C")
	return p, err
}

// OpenPostgres finds a cluster that InitPostgres made, on copies of its
// volumes or on another site's: data and wal are where they are mounted now.
func (e *Env) OpenPostgres(name, data, wal string) (*Postgres, error) {
	p, err := e.newPostgres(name)
	if err != nil {
		return nil, err
	}
	return p, p.Relocate(data, wal)
}

// Relocate tells a stopped server that its volumes are mounted elsewhere. In a
// container of its own nothing of this would be needed: the paths would be the
// same, and the number in the lock file would not be that of a process which
// another site's server still has on this machine.
func (p *Postgres) Relocate(data, wal string) error {
	p.data, p.wal = filepath.Join(data, "data"), filepath.Join(wal, "wal")
	if err := os.Remove(filepath.Join(p.data, "postmaster.pid")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	link := filepath.Join(p.data, "pg_wal")
	if target, err := os.Readlink(link); err == nil && target == p.wal {
		return nil
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(p.wal, link); err != nil {
		return err
	}
	return os.Lchown(link, int(p.credential.Uid), int(p.credential.Gid))
}

func (e *Env) newPostgres(name string) (*Postgres, error) {
	bin, err := PostgresBin()
	if err != nil {
		return nil, err
	}
	u, err := user.Lookup(postgresUser)
	if err != nil {
		return nil, fmt.Errorf("find the user of PostgreSQL: %w", err)
	}
	uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return nil, err
	}
	p := &Postgres{
		env: e, bin: bin, credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
		sockets: e.Path(name + "-sock"), log: e.Path(name + ".log"),
	}
	if p.Port, err = loopback.FreePort(); err != nil {
		return nil, err
	}
	return p, p.mkdir(p.sockets, 0o700)
}

func (p *Postgres) mkdir(dir string, mode os.FileMode) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	return os.Chown(dir, int(p.credential.Uid), int(p.credential.Gid))
}

// Start runs the server and waits until it answers; crash recovery is part of
// that.
func (p *Postgres) Start(ctx context.Context) error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.server = p.command(context.Background(), "postgres", "-D", p.data, "-p", strconv.Itoa(p.Port), "-k", p.sockets,
		"-c", "listen_addresses="+loopback.Host(), "-c", "fsync=on", "-c", "full_page_writes=on", "-c", "shared_buffers=64MB",
		"-c", "max_connections=40", "-c", "logging_collector=off")
	p.server.Stdout, p.server.Stderr = log, log
	if err := p.server.Start(); err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	exited := make(chan error, 1)
	go func(server *exec.Cmd) { exited <- server.Wait() }(p.server)
	p.exited = exited
	p.env.Undo(p.abandon)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err = Until(ctx, 20*time.Millisecond, func() error {
		select {
		case err := <-exited:
			exited <- err
			cancel()
			return fmt.Errorf("the server ended: %v", err)
		default:
		}
		_, err := p.query(ctx, "postgres", "SELECT 1")
		return err
	})
	if err != nil {
		return fmt.Errorf("start PostgreSQL: %w\n%s", err, tail(p.log))
	}
	return nil
}

// CreateDatabase makes Database and fills it for pgbench; 100,000 accounts for
// each unit of scale. It ends with a checkpoint of PostgreSQL's, so that a
// crash recovery right after does not fill it once more.
func (p *Postgres) CreateDatabase(ctx context.Context, scale int) error {
	if _, err := p.query(ctx, "postgres", "CREATE DATABASE "+Database); err != nil {
		return err
	}
	if _, err := p.run(ctx, "pgbench", append(p.connection(), "--initialize", "--quiet", "--scale", strconv.Itoa(scale), Database)...); err != nil {
		return err
	}
	_, err := p.Query(ctx, "CHECKPOINT")
	return err
}

// Stop ends the server in order, with a checkpoint of its own.
func (p *Postgres) Stop() error { return p.end(syscall.SIGINT) }

// Crash kills every process of the server, as a machine that fails does. It
// does not wait for processes that hang in I/O; Kill does.
func (p *Postgres) Crash() error { return p.signalAll(syscall.SIGKILL) }

// Kill is Crash, and waits for the end. No error if the server does not run.
func (p *Postgres) Kill() error { return errors.Join(p.Crash(), p.end(syscall.SIGKILL)) }

// abandon is Kill for a clean-up: processes that hang in I/O end when their
// devices do, which comes later.
func (p *Postgres) abandon() error {
	err := p.Crash()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = Until(ctx, 10*time.Millisecond, func() error { // what is left is looked for later
		if len(p.processes()) > 0 {
			return errors.New("still there")
		}
		return nil
	})
	return err
}

func (p *Postgres) signalAll(sig syscall.Signal) error {
	for _, pid := range p.processes() {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signal PostgreSQL: %w", err)
		}
	}
	return nil
}

func (p *Postgres) end(sig syscall.Signal) error {
	if p.server == nil {
		return nil
	}
	if err := p.server.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-p.exited:
		p.server = nil
		if sig == syscall.SIGKILL {
			err = nil
		}
		return errors.Join(err, p.awaitChildren())
	case <-time.After(startTimeout):
		return fmt.Errorf("PostgreSQL did not end on %v: %s", sig, tail(p.log))
	}
}

// awaitChildren waits until no process of the server is left that could keep
// its volumes busy.
func (p *Postgres) awaitChildren() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return Until(ctx, 10*time.Millisecond, func() error {
		if left := p.processes(); len(left) > 0 {
			return fmt.Errorf("processes %v of PostgreSQL are still there", left)
		}
		return nil
	})
}

// processes finds the server's processes by their log, which all of them have
// open: each of them makes a session of its own, and those that wait for one
// that was killed outlive it.
func (p *Postgres) processes() []int {
	return processesOf(func(log string) bool { return strings.TrimSuffix(log, " (deleted)") == p.log })
}

// processesOf finds processes by the file that their standard error goes to.
func processesOf(owned func(stderr string) bool) []int {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/2") // the pattern is well-formed
	var pids []int
	for _, link := range links {
		file, err := os.Readlink(link)
		if err != nil || !owned(file) {
			continue // ended meanwhile, or a stranger
		}
		if pid, err := strconv.Atoi(strings.Split(link, "/")[2]); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Query runs SQL in Database and returns the rows, fields separated by "|".
func (p *Postgres) Query(ctx context.Context, sql string) (string, error) {
	return p.query(ctx, Database, sql)
}

// Session is Server's.
func (p *Postgres) Session(ctx context.Context, in io.Reader, out io.Writer) error {
	cmd := p.command(ctx, "psql", append(p.connection(), SessionOptions...)...)
	var complaints strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &complaints
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("psql: %w: %s", err, complaints.String())
	}
	return nil
}

// SessionOptions are the options of psql for a session that a program reads.
var SessionOptions = []string{"-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", Database}

// QueryInt is Query for one number.
func (p *Postgres) QueryInt(ctx context.Context, sql string) (int64, error) {
	text, err := p.Query(ctx, sql)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", sql, err)
	}
	return n, nil
}

func (p *Postgres) query(ctx context.Context, database, sql string) (string, error) {
	out, err := p.run(ctx, "psql", append(p.connection(), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql)...)
	return strings.TrimSpace(out), err
}

func (p *Postgres) connection() []string {
	return []string{"-h", p.sockets, "-p", strconv.Itoa(p.Port), "-U", postgresUser}
}

func (p *Postgres) run(ctx context.Context, program string, args ...string) (string, error) {
	return output(p.command(ctx, program, args...))
}

// command prepares a program to run as PostgreSQL's user, in a session of its
// own so that a terminal's signals do not reach it.
func (p *Postgres) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, program), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.credential, Setsid: true}
	cmd.Dir = p.sockets
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// LogTail returns the last lines of the server's log.
func (p *Postgres) LogTail() string { return tail(p.log) }

func tail(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const most = 4096
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, end-most), io.SeekStart) // a failure shows as an empty tail
	}
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return err.Error()
	}
	return string(b)
}
