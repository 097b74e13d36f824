package controller_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/controller/controllertest"
	"github.com/lockstep-csi/lockstep/internal/kv"
)

// BenchmarkCreateSnapshot is the controller's own share of a snapshot: the
// catalog on a real disk, a backend that takes no time, 100 volumes.
func BenchmarkCreateSnapshot(b *testing.B) {
	ctx := context.Background()
	db, err := kv.OpenBolt(filepath.Join(b.TempDir(), "catalog.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // nothing of it is needed afterwards
	s, err := controller.New(controller.Config{
		Catalog: catalog.New(db), Backend: controllertest.NewBackend(testStart), Nodes: testNodes,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var id string
	for i := range 100 {
		got, err := s.CreateVolume(ctx, volumeRequest(fmt.Sprint(i), nil))
		if err != nil {
			b.Fatal(err)
		}
		id = got.GetVolume().GetVolumeId()
	}
	n := 0
	for b.Loop() {
		n++
		if _, err := s.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: fmt.Sprint(n), SourceVolumeId: id}); err != nil {
			b.Fatal(err)
		}
	}
}
