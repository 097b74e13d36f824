package controller_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/controller/controllertest"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

const (
	testNode = "node-1"
	mib      = int64(1) << 20
)

var testStart = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// site is a server with everything that it needs.
type site struct {
	*controller.Server
	t       *testing.T
	backend *controllertest.Backend
	db      *kv.Memory
}

// testNodes is a site of one node.
var testNodes, _ = controller.OneNode(testNode)

func newSite(t *testing.T) *site { return newSiteWith(t, nil) }

// newSiteWith is a site that knows of claims.
func newSiteWith(t *testing.T, claims controller.Claims) *site {
	return startSiteWith(t, kv.NewMemory(), controllertest.NewBackend(testStart), claims)
}

// startSite starts a server on what an earlier one may have left.
func startSite(t *testing.T, db *kv.Memory, backend *controllertest.Backend) *site {
	return startSiteWith(t, db, backend, nil)
}

func startSiteWith(t *testing.T, db *kv.Memory, backend *controllertest.Backend, claims controller.Claims) *site {
	t.Helper()
	server, err := controller.New(controller.Config{
		Catalog: catalog.New(db), Backend: backend, Nodes: testNodes, Claims: claims, MaxVolumesPerNode: 3,
		LockWait: 10 * time.Second, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return &site{Server: server, t: t, backend: backend, db: db}
}

func mountCapability(fsType string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

func blockCapability(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}
}

func volumeRequest(name string, parameters map[string]string) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name: name, Parameters: parameters,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: 64 * mib},
		VolumeCapabilities: []*csi.VolumeCapability{mountCapability("")},
	}
}

func fromSnapshot(req *csi.CreateVolumeRequest, snapshot string) *csi.CreateVolumeRequest {
	req.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot},
	}}
	return req
}

func fromVolume(req *csi.CreateVolumeRequest, volume string) *csi.CreateVolumeRequest {
	req.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: volume},
	}}
	return req
}

// must returns the value of a call that has to succeed.
func must[R any](t *testing.T) func(R, error) R {
	return func(value R, err error) R {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func wantCode(t *testing.T, err error, code codes.Code) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("code %s (%v), want %s", status.Code(err), err, code)
	}
}

func (s *site) createVolume(name string, parameters map[string]string) *csi.Volume {
	s.t.Helper()
	return must[*csi.CreateVolumeResponse](s.t)(s.CreateVolume(context.Background(), volumeRequest(name, parameters))).GetVolume()
}

func (s *site) createFrom(req *csi.CreateVolumeRequest) *csi.Volume {
	s.t.Helper()
	return must[*csi.CreateVolumeResponse](s.t)(s.CreateVolume(context.Background(), req)).GetVolume()
}

func (s *site) createSnapshot(name, volume, asOf string) *csi.Snapshot {
	s.t.Helper()
	req := &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: volume}
	if asOf != "" {
		req.Parameters = map[string]string{controller.ParameterAsOf: asOf}
	}
	return must[*csi.CreateSnapshotResponse](s.t)(s.CreateSnapshot(context.Background(), req)).GetSnapshot()
}

func (s *site) deleteSnapshot(id string) {
	s.t.Helper()
	must[*csi.DeleteSnapshotResponse](s.t)(s.DeleteSnapshot(context.Background(), &csi.DeleteSnapshotRequest{SnapshotId: id}))
}

func (s *site) deleteVolume(id string) {
	s.t.Helper()
	must[*csi.DeleteVolumeResponse](s.t)(s.DeleteVolume(context.Background(), &csi.DeleteVolumeRequest{VolumeId: id}))
}

func (s *site) content(volume string) string {
	return s.backend.Stores()[parseID(s.t, volume)].Content
}

func (s *site) write(volume, content string) { s.backend.Write(parseID(s.t, volume), content) }

func parseID(t *testing.T, text string) journal.VolumeID {
	t.Helper()
	return must[journal.VolumeID](t)(journal.ParseVolumeID(text))
}
