package holder

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
)

// idleDevice is a device that is asked for nothing but its size.
type idleDevice struct{ engine.Device }

func (idleDevice) SizeBytes() int64 { return 1 << 20 }
func (idleDevice) ReadOnly() bool   { return false }

// testHolder is one that Run was not called on.
func testHolder(t *testing.T) *Holder {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not tested: descriptors of mounts; needs root to mount")
	}
	dir := t.TempDir()
	h, err := New(Config{Socket: filepath.Join(dir, "s"), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.adopt(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

// mountServed mounts a volume of h and serves it until the end of the test.
func mountServed(t *testing.T, h *Holder, id string) *volume {
	t.Helper()
	v := h.newVolume(id, 512, false)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := v.remount(ctx, fuse.TransportDevice); err != nil {
		t.Fatal(err)
	}
	twin, err := v.conn.copy()
	if err != nil {
		t.Fatal(err)
	}
	session := fuse.Session{Conn: os.NewFile(uintptr(twin), "/dev/fuse"), Init: v.rec.Init}
	served := make(chan error, 1)
	go func() { served <- fuse.Serve(context.Background(), session, idleDevice{}, fuse.Options{}) }()
	t.Cleanup(func() {
		if err := errors.Join(abort(v.dir), v.remove()); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, fuse.ErrUnmounted) {
			t.Error(err)
		}
		_ = session.Conn.Close()
	})
	return v
}

// TestVerify: which descriptors are taken back, by what the kernel tells of them
// and, as on older kernels, by the probe alone.
func TestVerify(t *testing.T) {
	h := testHolder(t)
	v, other := mountServed(t, h, "vol"), mountServed(t, h, "other")
	unmounted, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer descriptor(unmounted).close()
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer descriptor(null).close()
	number, known, err := v.conn.connection()
	if err != nil || known && number != v.rec.Connection {
		t.Errorf("the kernel says connection %d, %v; the mount has %d", number, err, v.rec.Connection)
	}
	for name, c := range map[string]struct {
		given descriptor
		want  error
	}{
		"its own":               {v.conn, nil},
		"of another volume":     {other.conn, ErrForeign},
		"of no mount":           {descriptor(unmounted), ErrForeign},
		"of something else":     {descriptor(null), ErrForeign},
		"its own a second time": {v.conn, nil},
	} {
		t.Run(name, func(t *testing.T) {
			certain, err := v.identify(c.given)
			if certain != (known && c.want == nil) || (certain || c.given == descriptor(null)) && !errors.Is(err, c.want) {
				t.Errorf("identify: certain %t, %v, want %v", certain, err, c.want)
			}
			if c.given == descriptor(null) {
				return // the probe is for descriptors of /dev/fuse
			}
			name, forget, err := v.makeName()
			if err != nil {
				t.Fatal(err)
			}
			defer forget()
			if err := v.reaches(c.given, name); !errors.Is(err, c.want) {
				t.Errorf("probe: %v, want %v", err, c.want)
			}
		})
	}
	nonblocking, err := unix.FcntlInt(uintptr(v.conn), unix.F_GETFL, 0)
	if err != nil || nonblocking&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#x, %v: looking at a descriptor that is served made it blocking", nonblocking, err)
	}
}

// mountAway mounts a volume of h that nobody serves, as an earlier holder may have left
// it, and returns the only descriptor.
func mountAway(t *testing.T, h *Holder, id string) (*volume, descriptor) {
	t.Helper()
	v := h.newVolume(id, 512, false)
	if err := v.remount(t.Context(), fuse.TransportDevice); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(abort(v.dir), v.remove()); err != nil {
			t.Error(err)
		}
	})
	given := v.conn
	v.conn = noDescriptor
	h.volumes[id] = v
	return v, given
}

// TestOfferIsWithdrawn: an engine that dies while it is asked about the descriptor that
// it has brought. The holder's copy must not keep the connection open, or the question is
// never answered and the volume is never attached again.
func TestOfferIsWithdrawn(t *testing.T) {
	v, given := mountAway(t, testHolder(t), "vol")
	twin, err := given.copy() // the engine's, which answers nothing
	if err != nil {
		t.Fatal(err)
	}
	offered := make(chan descriptor, 1)
	offered <- given
	if err := v.acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	gaveUp, giveUp := context.WithCancel(t.Context())
	giveUp()
	if err := v.leaveBehind(gaveUp, func() error { return v.takeBack(request{}, false, offered) }); !errors.Is(err, context.Canceled) {
		t.Fatalf("take back without an answer: %v", err)
	}
	withdraw(offered)
	twin.close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := v.acquire(ctx); err != nil {
		t.Errorf("the question is not over: %v", err)
	}
	if v.mounted() {
		t.Error("what was withdrawn was kept")
	}
}

// TestAttachAwaitsWhatIsTakenBack: an engine attaches while the descriptor of one that
// has died since is being taken back.
func TestAttachAwaitsWhatIsTakenBack(t *testing.T) {
	h := testHolder(t)
	v, given := mountAway(t, h, "vol")
	if err := v.acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 1)
	go func() { refused <- h.refuseAway(t.Context(), "vol") }()
	select {
	case err := <-refused:
		t.Errorf("decided before the descriptor was there: %v", err)
	case <-time.After(2 * aliveWait):
	}
	v.mu.Lock()
	v.conn = given
	v.mu.Unlock()
	v.unlock()
	if err := <-refused; err != nil {
		t.Error(err)
	}
}

// TestMatches: what a client says of its volume must be what was recorded.
func TestMatches(t *testing.T) {
	init := fuse.InitState{Major: 7, Minor: 40}
	v := &volume{id: "vol", rec: record{Volume: "vol", BlockBytes: 4096, Init: init, Lease: 3}}
	for name, c := range map[string]struct {
		change func(*request)
		want   error
	}{
		"the same":           {func(*request) {}, nil},
		"an older lease":     {func(r *request) { r.Lease = 2 }, ErrSuperseded},
		"another lease":      {func(r *request) { r.Lease = 4 }, ErrSuperseded},
		"another block size": {func(r *request) { r.BlockBytes = 512 }, ErrInvalid},
		"read-only":          {func(r *request) { r.ReadOnly = true }, ErrInvalid},
		"another INIT":       {func(r *request) { r.Init = &fuse.InitState{Major: 7, Minor: 39} }, ErrInvalid},
	} {
		r := request{Volume: "vol", BlockBytes: 4096, Init: &init, Lease: 3}
		c.change(&r)
		if err := v.matches(r); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestRecords: what one holder writes the next one reads, and a damaged record
// costs only its own volume.
func TestRecords(t *testing.T) {
	dir := t.TempDir()
	if _, err := loadRecords(dir); err != nil {
		t.Fatal(err)
	}
	want := record{
		Version: recordVersion, Volume: "a.json", BlockBytes: 512, ReadOnly: true, Connection: 57,
		Init: fuse.InitState{Major: 7, Flags: 1 << 39}, Lease: 2,
	}
	if err := want.save(dir); err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string]string{
		"b.json": "{", "c.json": `{"v":2,"volume":"c"}`, "d.json": `{"v":1,"volume":"a"}`, "e.json.new": `{`,
	} {
		if err := os.WriteFile(filepath.Join(dir, recordsDir, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := loadRecords(dir)
	if !errors.Is(err, ErrVersion) || !errors.Is(err, ErrInvalid) {
		t.Errorf("damaged records: %v, want ErrVersion and ErrInvalid among them", err)
	}
	if len(got) != 1 || got["a.json"] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestFileNamesTellDirectories: a name is understood by the holder of its
// directory and by no other.
func TestFileNamesTellDirectories(t *testing.T) {
	dir := t.TempDir()
	id, err := loadDirectoryID(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := loadDirectoryID(dir); err != nil || again != id {
		t.Errorf("identity %q the second time, %v, was %q", again, err, id)
	}
	other, err := loadDirectoryID(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	name := id.fileName("a-b.c", 57)
	if volume, connection, ours := id.parseFileName(name); !ours || volume != "a-b.c" || connection != 57 {
		t.Errorf("%s: %q, %d, %t", name, volume, connection, ours)
	}
	for _, foreign := range []string{other.fileName("a-b.c", 57), "device", "device-" + string(id), "device-" + string(id) + "-x-vol"} {
		if _, _, ours := id.parseFileName(foreign); ours {
			t.Errorf("%s counts as ours", foreign)
		}
	}
}
