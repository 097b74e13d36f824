package controller_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/controller/controllertest"
	"github.com/lockstep-csi/lockstep/internal/kv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestConcurrentLives has many callers live the same life at once: all must
// see the same volumes, and nothing may be left.
func TestConcurrentLives(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := lifecycle(ctx, s); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	checkAgreement(t, s)
	if n := len(s.backend.Stores()); n != 4 {
		t.Errorf("%d stores, want those of data, wal, restored and cloned", n)
	}
	if err := teardown(ctx, s); err != nil {
		t.Error(err)
	}
	checkAgreement(t, s)
}

// TestConcurrentCreateAndDelete races calls that undo each other. Whatever
// the order, the catalog and the backend agree afterwards.
func TestConcurrentCreateAndDelete(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	data, _ := shop(s)
	var wg sync.WaitGroup
	for i := range 6 {
		name := fmt.Sprintf("snapshot %d", i%2)
		wg.Go(func() {
			for range 30 {
				got, err := s.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: data})
				if err != nil {
					t.Error(err)
					return
				}
				id := got.GetSnapshot().GetSnapshotId()
				restored, err := s.CreateVolume(ctx, fromSnapshot(volumeRequest("restored "+name, map[string]string{"group": "shop"}), id))
				if err == nil {
					_, err = s.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: restored.GetVolume().GetVolumeId()})
				}
				// Others may have deleted the snapshot, or be using it.
				if code := status.Code(err); code != codes.OK && code != codes.NotFound && code != codes.AlreadyExists {
					t.Error(err)
				}
				_, err = s.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: id})
				if code := status.Code(err); code != codes.OK && code != codes.FailedPrecondition {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	checkAgreement(t, s)
}

func TestBusyVolumeIsAborted(t *testing.T) {
	ctx := context.Background()
	db, backend := kv.NewMemory(), controllertest.NewBackend(testStart)
	server, err := controller.New(controller.Config{
		Catalog: catalog.New(db), Backend: backend, Nodes: testNodes, LockWait: time.Millisecond,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{Server: server, t: t, backend: backend, db: db}
	data, wal := shop(s)
	backend.Copying = make(chan struct{})
	clone := fromVolume(volumeRequest("clone", nil), data)
	created := make(chan error)
	go func() {
		_, err := s.CreateVolume(ctx, clone)
		created <- err
	}()
	backend.Copying <- struct{}{} // it has begun
	_, err = s.CreateVolume(ctx, clone)
	wantCode(t, err, codes.Aborted)
	// Neither other volumes nor the source have to wait.
	must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(ctx, publishRequest(data, mountCapability(""))))
	s.deleteVolume(wal)
	s.createSnapshot("meanwhile", data, "")
	// Closing ends the copy; the next start rolls it back.
	server.Close()
	if err := <-created; err == nil {
		t.Error("a creation succeeded although the server was closed")
	}
	next := startSite(t, db, backend)
	backend.Copying = nil
	if err := next.Reconcile(ctx); err != nil {
		t.Fatal(err)
	}
	checkAgreement(t, next)
}

func TestCallerThatGivesUp(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.CreateVolume(ctx, volumeRequest("data", nil))
	if err == nil {
		t.Error("a call succeeded although its context had ended")
	}
}
