package enginepod

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// tools is an NBD server to which nobody connects.
type tools struct{}

func (tools) Add(string, engine.Device, string) error { return nil }
func (tools) Remove(context.Context, string) error    { return nil }

// replicaOn is the engine of a volume that was primary here, whose first sector was 1
// then, and is a replica now. open starts the next process.
func replicaOn(t *testing.T, files vfs.FS) (p *Pod, open func() *Pod) {
	t.Helper()
	open = func() *Pod {
		t.Helper()
		p, err := Open(Config{Volume: journal.VolumeID{1}, Dir: "/backing", Exports: tools{}, SegmentBytes: journal.MinSegmentBytes, FS: files})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if err := files.MkdirAll("/backing"); err != nil {
		t.Fatal(err)
	}
	p = open()
	o := control.Orders{Volume: journal.VolumeID{1}, Term: 1, Revision: 1, Group: "shop", Role: control.Primary, Window: time.Hour, Writable: true, SizeBytes: 1 << 20}
	orderPod(t, p, o)
	// In extents that are apart, and more than a connection takes at once.
	for off := int64(0); off < 1<<20; off += 256 << 10 {
		if err := engineOf(t, p).WriteAt(context.Background(), bytes.Repeat([]byte{1}, 128<<10), off, true); err != nil {
			t.Fatal(err)
		}
	}
	o.Term, o.Role, o.Writable, o.Source = 2, control.Replica, false, "b"
	orderPod(t, p, o)
	return p, open
}

func orderPod(t *testing.T, p *Pod, o control.Orders) {
	t.Helper()
	if err := p.Order(context.Background(), o); err != nil {
		t.Fatal(err)
	}
}

func engineOf(t *testing.T, p *Pod) *engine.Engine {
	t.Helper()
	eng, err := p.Engine()
	if err != nil {
		t.Fatal(err)
	}
	return eng
}

// sent is an image that a peer has sent, whose first sector is 9; all but its end.
func sent(t *testing.T, p *Pod) replication.Import {
	t.Helper()
	im, err := replicaStore{p}.Import(context.Background(), "shop", sentSpec())
	if err == nil {
		err = im.WriteAt(bytes.Repeat([]byte{9}, 512), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func sentSpec() replication.ImageSpec {
	return replication.ImageSpec{Volume: journal.VolumeID{1}, SizeBytes: 1 << 20, At: journal.Position{Timeline: 99, Seq: 7},
		Timelines: []journal.Timeline{{ID: 99, Reason: "created"}}}
}

func firstByte(t *testing.T, p *Pod) byte {
	t.Helper()
	b := make([]byte, 512)
	if err := engineOf(t, p).ReadAt(context.Background(), b, 0); err != nil {
		t.Fatal(err)
	}
	return b[0]
}

// A store is not taken away under who looks at it, and the image that is to replace it
// is not lost.
func TestAnImageWaitsForViewsOfAnEngine(t *testing.T) {
	ctx := context.Background()
	p, _ := replicaOn(t, vfs.NewMem())
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	im := sent(t, p)
	at := engineOf(t, p).Store().Durable()
	if _, err := p.OpenView(ctx, "v1", at); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := im.Commit(ctx); !errors.Is(err, replication.ErrInUse) {
			t.Fatalf("an image takes the place of a store that a view shows: %v", err)
		}
	}
	p.mu.Lock()
	view := p.views["v1"]
	p.mu.Unlock()
	b := make([]byte, 512)
	if err := view.ReadAt(b, 0); err != nil || b[0] != 1 {
		t.Errorf("the view shows %d, %v, want 1", b[0], err)
	}
	if _, err := (replicaStore{p}).Import(ctx, "shop", sentSpec()); !errors.Is(err, replication.ErrInUse) {
		t.Errorf("another image is begun: %v", err)
	}
	if err := p.CloseView(ctx, "v1"); err != nil {
		t.Fatal(err)
	}
	end, err := p.beginReplacing()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.OpenView(ctx, "v2", at); !errors.Is(err, replication.ErrInUse) {
		t.Errorf("a view is opened of a store that is being replaced: %v", err)
	}
	end()
	if _, err := im.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if got := firstByte(t, p); got != 9 {
		t.Errorf("after the view was closed the volume has %d, want the image's 9", got)
	}
}

// clientOf connects to a pod's control API.
func clientOf(t *testing.T, p *Pod) *control.Client {
	t.Helper()
	l, srv := bufconn.Listen(1<<20), grpc.NewServer()
	control.NewServer(p, clock.Wall{}).Register(srv)
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(l) })
	conn, err := grpc.NewClient("passthrough:engine", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		srv.Stop()
		serving.Wait()
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return control.NewClient(p.cfg.Volume, conn)
}

// Nor is it taken away under a clone that is copied from it, which would have to begin anew
// and would find its pin gone.
func TestAnImageWaitsForACopyToAClone(t *testing.T) {
	ctx := context.Background()
	p, _ := replicaOn(t, vfs.NewMem())
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	client, im := clientOf(t, p), sent(t, p)
	if err := client.Pin(ctx, "snap", engineOf(t, p).Store().Durable()); err != nil {
		t.Fatal(err)
	}
	got := byte(0)
	err := client.ReadImage(ctx, "snap", func(int64) error {
		if _, err := im.Commit(ctx); !errors.Is(err, replication.ErrInUse) {
			t.Errorf("an image takes the place of a store that is being copied: %v", err)
		}
		if _, err := (replicaStore{p}).Import(ctx, "shop", sentSpec()); !errors.Is(err, replication.ErrInUse) {
			t.Errorf("another image is begun: %v", err)
		}
		return nil
	}, func(b []byte, off int64) error {
		if off == 0 {
			got = b[0]
		}
		return nil
	})
	if err != nil || got != 1 {
		t.Errorf("the copy has %d, %v, want 1", got, err)
	}
	end, err := p.beginReplacing()
	if err != nil {
		t.Fatal(err)
	}
	err = client.ReadImage(ctx, "snap", func(int64) error { return nil }, func([]byte, int64) error { return nil })
	if err == nil {
		t.Error("a store is copied that is being replaced")
	}
	end()
	if _, err := im.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if got := firstByte(t, p); got != 9 {
		t.Errorf("after the copy the volume has %d, want the image's 9", got)
	}
}

// doubtful is a disk on which the last commit fails after it was written.
type doubtful struct {
	vfs.FS
	fail bool
}

type doubtfulDB struct {
	kv.DB
	disk   *doubtful
	failed bool
}

func (d *doubtful) OpenDB(name string) (kv.DB, error) {
	db, err := d.FS.OpenDB(name)
	return &doubtfulDB{DB: db, disk: d}, err
}

func (d *doubtfulDB) Update(fn func(kv.Tx) error) error {
	if d.failed {
		return kv.ErrPoisoned
	}
	err := d.DB.Update(fn)
	if err == nil && d.disk.fail {
		d.failed = true
		return errors.New("sync: input/output error")
	}
	return err
}

// The commit that puts an image in a store's place fails, and may have reached the disk.
// The next process finds the one store or the other, whatever this one does before it ends.
func TestAnImageWhoseRecordIsInDoubtIsNotRemoved(t *testing.T) {
	ctx := context.Background()
	disk := &doubtful{FS: vfs.NewMem()}
	p, open := replicaOn(t, disk)
	im := sent(t, p)
	if err := im.(*replicaImport).Import.Commit(); err != nil { // whose own databases are well
		t.Fatal(err)
	}
	im.(*replicaImport).filled, disk.fail = true, true
	if _, err := im.Commit(ctx); err == nil {
		t.Fatal("the commit succeeded")
	}
	select {
	case err := <-p.Fatal():
		t.Logf("the process ends: %v", err)
	default:
		t.Error("the process goes on without knowing which store is the volume's")
	}
	if _, err := (replicaStore{p}).Import(ctx, "shop", sentSpec()); !errors.Is(err, kv.ErrPoisoned) {
		t.Errorf("the peer's next image is begun: %v", err)
	}
	disk.fail = false
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = open()
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := (replicaStore{p}).Replica(ctx, "shop", journal.VolumeID{1}); err != nil {
		t.Fatalf("nothing is left of the replica: %v", err)
	}
	if got := firstByte(t, p); got != 9 {
		t.Errorf("the volume has %d, want the image's 9", got)
	}
}

// A primary's engine that is opened while its writes are stopped gives nothing up before they
// are admitted again: its group may have an operation to finish, which returns to what is oldest.
func TestAnEngineThatMayBeForkedKeepsWhatItHas(t *testing.T) {
	ctx := context.Background()
	files := vfs.NewMem()
	if err := files.MkdirAll("/backing"); err != nil {
		t.Fatal(err)
	}
	start := func() *Pod {
		t.Helper()
		p, err := Open(Config{Volume: journal.VolumeID{1}, Dir: "/backing", Exports: tools{}, SegmentBytes: journal.MinSegmentBytes, FS: files})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := start()
	o := control.Orders{Volume: journal.VolumeID{1}, Term: 1, Revision: 1, Group: "shop", Role: control.Primary, Window: time.Hour, Writable: true, SizeBytes: 1 << 20}
	orderPod(t, p, o)
	for range 4 * journal.MinSegmentBytes / (64 << 10) {
		if err := engineOf(t, p).WriteAt(ctx, bytes.Repeat([]byte{1}, 64<<10), 0, false); err != nil {
			t.Fatal(err)
		}
	}
	before := engineOf(t, p).Store().Horizon()
	o.Revision, o.Writable = 2, false
	orderPod(t, p, o)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = start()
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	o.Revision, o.JournalBytes = 3, journal.MinSegmentBytes
	orderPod(t, p, o)
	store := engineOf(t, p).Store()
	if err := store.Maintain(ctx); err != nil {
		t.Fatal(err)
	}
	if now := store.Horizon(); now != before {
		t.Errorf("the horizon has moved from %s to %s", before, now)
	}
	o.Revision, o.Writable = 4, true
	orderPod(t, p, o)
	if err := store.Maintain(ctx); err != nil {
		t.Fatal(err)
	}
	if now := store.Horizon(); now == before {
		t.Errorf("the horizon is at %s still, with writes admitted", now)
	}
}
