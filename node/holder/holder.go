package holder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// answerGrace is how long a client may take to receive its last answers.
const answerGrace = time.Second

// Holder keeps the devices of a node; see the package's comment. Its methods may
// be called concurrently, and before, during and after Run.
type Holder struct {
	config   Config
	id       directoryID // set by Run before anything else needs it
	counters counters
	spells   atomic.Uint64 // see volume.spell
	// changed is sent to when the holder may have become idle; capacity 1.
	changed chan struct{}
	// shutdown is closed by the first Shutdown request.
	shutdown     chan struct{}
	shutdownOnce sync.Once
	wg           sync.WaitGroup // connections

	mu      sync.Mutex
	started bool // Run listens
	ending  bool // Run closes the connections: no lease begins, and none is given back
	volumes map[string]*volume
	conns   map[*connection]struct{}
	// revoking are the volumes whose devices are being taken away: no lease of
	// them begins.
	revoking map[string]struct{}
	// news is closed and replaced when anything of a volume has changed.
	news chan struct{}
}

// New prepares a holder; it has no effect on the machine before Run.
func New(config Config) (*Holder, error) {
	config = config.withDefaults()
	if err := config.Validate(); err != nil {
		return nil, err
	}
	return &Holder{
		config:   config,
		changed:  make(chan struct{}, 1),
		shutdown: make(chan struct{}),
		volumes:  make(map[string]*volume),
		conns:    make(map[*connection]struct{}),
		revoking: make(map[string]struct{}),
		news:     make(chan struct{}),
	}, nil
}

// Run is New and Holder.Run.
func Run(ctx context.Context, config Config) error {
	h, err := New(config)
	if err != nil {
		return err
	}
	return h.Run(ctx)
}

// Run keeps the devices of a node until ctx is cancelled, a client asks for
// shutdown, or there has been nothing to keep for Config.IdleTimeout; it
// returns nil in these cases. When ctx is cancelled or on shutdown, every volume
// is detached first, by force: I/O that is under way fails. With Config.Keep
// nothing is detached; see there. It is called once.
//
// Run begins with what an earlier holder of the directory left: volumes whose
// engines live wait for them to come back (Volume.Away), everything else is
// cleared away.
//
// Only one holder runs in a directory: Run waits for an older one to end for as
// long as Config.CallTimeout, and then fails.
func (h *Holder) Run(ctx context.Context) error {
	if err := os.MkdirAll(h.config.Dir, 0o700); err != nil {
		return fmt.Errorf("make holder directory: %w", err)
	}
	dir, err := filepath.EvalSymlinks(h.config.Dir)
	if err != nil {
		return fmt.Errorf("resolve holder directory: %w", err)
	}
	h.config.Dir = dir // as the kernel will name backing files
	unlock, err := lockDir(ctx, h.config)
	if err != nil {
		return err
	}
	defer unlock()
	if err := h.adopt(ctx); err != nil {
		return err
	}
	listener, err := listen(h.config)
	if err != nil {
		return err
	}
	return h.serve(ctx, listener)
}

// lockDir makes this process the holder of its directory.
func lockDir(ctx context.Context, config Config) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(config.Dir, lockFile), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open holder lock: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, config.CallTimeout)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock holder directory: %w", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("wait for another holder in %s: %w", config.Dir, ctx.Err())
		}
	}
}

// listen replaces whatever socket a holder that died left. The caller holds the
// directory's lock.
func listen(config Config) (*net.UnixListener, error) {
	path := config.Socket
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale holder socket: %w", err)
	}
	// The socket hands out block devices, so it must never be open to others,
	// not even between being made and being restricted.
	old := unix.Umask(0o177)
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen on holder socket: %w", err)
	}
	if config.Group == 0 {
		return listener, nil
	}
	err = os.Chown(path, -1, config.Group)
	if err == nil {
		err = os.Chmod(path, 0o660)
	}
	if err != nil {
		listener.Close()
		return nil, fmt.Errorf("give holder socket to group %d: %w", config.Group, err)
	}
	return listener, nil
}

// serve accepts connections until the holder is to end, and then takes down
// what it keeps.
func (h *Holder) serve(ctx context.Context, listener *net.UnixListener) error {
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	accepted := make(chan error, 1)
	go func() { accepted <- h.accept(serving, listener) }()
	h.mu.Lock()
	h.started = true
	h.mu.Unlock()

	err := h.awaitEnd(ctx, accepted)
	if h.config.Keep {
		h.awaitEngines()
	}
	cancel()
	listener.Close()
	h.closeConnections()
	h.wg.Wait()
	if h.config.Keep {
		h.letGo()
		return err
	}
	return errors.Join(err, h.detachAll())
}

// accept starts a goroutine for each connection until the listener is closed.
func (h *Holder) accept(ctx context.Context, listener *net.UnixListener) error {
	for {
		socket, err := listener.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept on holder socket: %w", err)
		}
		c := newConnection(h, socket)
		h.mu.Lock()
		if ctx.Err() != nil {
			h.mu.Unlock()
			_ = socket.Close()
			return nil
		}
		h.conns[c] = struct{}{}
		h.wg.Add(1) // under mu, so that it is ordered before closeConnections
		h.mu.Unlock()
		go func() {
			defer h.wg.Done()
			c.run(ctx)
		}()
	}
}

// awaitEnd returns when the holder is to end.
func (h *Holder) awaitEnd(ctx context.Context, accepted <-chan error) error {
	timer := time.NewTimer(max(h.config.IdleTimeout, 0))
	defer timer.Stop()
	for {
		var expired <-chan time.Time
		if h.idle() && h.config.IdleTimeout > 0 {
			expired = timer.C
		}
		select {
		case <-expired:
			if h.idle() {
				return nil
			}
		case <-h.changed:
			timer.Reset(max(h.config.IdleTimeout, 0))
		case <-h.shutdown:
			return nil
		case err := <-accepted:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

func (h *Holder) idle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.volumes) == 0 && len(h.conns) == 0
}

// touch makes awaitEnd look again whether the holder is idle.
func (h *Holder) touch() {
	select {
	case h.changed <- struct{}{}:
	default: // it is going to look anyway
	}
}

// closeConnections makes the goroutine of every connection end. Calls under way
// are cancelled, and answered: an engine that has just been given a device must
// get its descriptor.
func (h *Holder) closeConnections() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.started, h.ending = false, true
	for c := range h.conns {
		_ = c.socket.SetWriteDeadline(time.Now().Add(answerGrace)) // no error but of a closed socket
		_ = c.socket.CloseRead()                                   // nor here
	}
}

// disconnected ends the leases of a connection whose socket was closed by the
// other side.
func (h *Holder) disconnected(c *connection) {
	h.mu.Lock()
	var left []*volume
	for _, v := range h.volumes {
		if v.lessee == c && !h.ending { // at the holder's end, engines go on
			left = append(left, v)
		}
	}
	h.mu.Unlock()
	for _, v := range left {
		h.giveUp(v)
	}
	h.mu.Lock()
	delete(h.conns, c)
	for _, v := range h.volumes {
		if v.lessee == c {
			v.end()
			h.config.Log.Info("engine is gone, device waits for the next", "volume", v.id)
		}
	}
	h.announce()
	h.mu.Unlock()
	h.touch()
}

// awaitEngines gives the engines of devices that are in use, and that nobody
// serves at the moment, time to come back before the holder ends: with the
// holder's descriptor their connections end too.
func (h *Holder) awaitEngines() {
	timer := time.NewTimer(h.config.EndGrace)
	defer timer.Stop()
	for {
		h.mu.Lock()
		news := h.news
		h.mu.Unlock()
		waiting := h.endangered()
		if len(waiting) == 0 && h.beginEnd(news) {
			return
		}
		if len(waiting) > 0 {
			h.config.Log.Info("the end of the holder waits for engines", "volumes", waiting)
		}
		select {
		case <-news:
		case <-timer.C:
			if len(waiting) > 0 {
				h.config.Log.Error("no engine came back for devices in use, their I/O fails now", "volumes", waiting)
			}
			return
		}
	}
}

// beginEnd has no lease end, or begin, from now on, unless one has since news.
func (h *Holder) beginEnd(news <-chan struct{}) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-news:
		return false
	default:
	}
	h.ending = true
	return true
}

// endangered are the volumes whose devices would fail if the holder ended now.
func (h *Holder) endangered() []string {
	h.mu.Lock()
	var unserved []*volume
	for _, v := range h.volumes {
		if v.lessee == nil && v.connected() {
			unserved = append(unserved, v)
		}
	}
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), h.config.EndGrace)
	defer cancel()
	var ids []string
	for _, v := range unserved {
		if h.isUsed(ctx, v) {
			ids = append(ids, v.id)
		}
	}
	return ids
}

// isUsed reports whether anything on this node has the device of a volume mounted, claimed
// or published: a pod claims no raw block volume. What cannot be found out is no.
func (h *Holder) isUsed(ctx context.Context, v *volume) bool {
	d, err := v.find()
	if err != nil || d == nil {
		return false
	}
	if used, err := d.InUse(); err != nil || used {
		return used
	}
	return errors.Is(h.config.Unused(ctx, v.id, d.Path(), func() error { return nil }), ErrBusy)
}

// letGo closes the holder's copies of the descriptors. A volume that is served
// goes on; its engine has the other copy.
func (h *Holder) letGo() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.volumes {
		v.mu.Lock()
		v.conn.close()
		v.conn = noDescriptor
		v.mu.Unlock()
	}
}

// detachAll takes every volume down at the end of the holder.
func (h *Holder) detachAll() error {
	ctx, cancel := context.WithTimeout(context.Background(), h.config.CallTimeout)
	defer cancel()
	h.mu.Lock()
	var ids []string
	for id := range h.volumes {
		ids = append(ids, id)
	}
	h.mu.Unlock()
	var errs []error
	for _, id := range ids {
		errs = append(errs, h.detach(ctx, id, true))
	}
	return errors.Join(errs...)
}
