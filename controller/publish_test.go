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
)

func publishRequest(id string, capability *csi.VolumeCapability) *csi.ControllerPublishVolumeRequest {
	return &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: testNode, VolumeCapability: capability}
}

func (s *site) attached(id string) *controller.AttachOptions {
	return s.backend.Stores()[parseID(s.t, id)].Attached
}

func TestPublish(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	id := s.createVolume("data", map[string]string{"blockSize": "4096"}).GetVolumeId()
	for range 2 {
		must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(ctx, publishRequest(id, mountCapability(""))))
	}
	if got := s.attached(id); got == nil || *got != (controller.AttachOptions{BlockBytes: 4096}) {
		t.Errorf("attached as %+v", got)
	}
	incompatible := publishRequest(id, mountCapability(""))
	incompatible.Readonly = true
	_, err := s.ControllerPublishVolume(ctx, incompatible)
	wantCode(t, err, codes.AlreadyExists)
	_, err = s.ControllerPublishVolume(ctx, publishRequest(id, blockCapability(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)))
	wantCode(t, err, codes.AlreadyExists)
	elsewhere := publishRequest(id, mountCapability(""))
	elsewhere.NodeId = "other"
	_, err = s.ControllerPublishVolume(ctx, elsewhere)
	wantCode(t, err, codes.NotFound)

	list := must[*csi.ListVolumesResponse](t)(s.ListVolumes(ctx, &csi.ListVolumesRequest{}))
	if nodes := list.GetEntries()[0].GetStatus().GetPublishedNodeIds(); len(nodes) != 1 || nodes[0] != testNode {
		t.Errorf("published nodes are %v", nodes)
	}
	_, err = s.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	wantCode(t, err, codes.FailedPrecondition)
	for _, node := range []string{"other", testNode, ""} {
		must[*csi.ControllerUnpublishVolumeResponse](t)(s.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: node}))
		if wantAttached := node == "other"; (s.attached(id) != nil) != wantAttached {
			t.Errorf("after unpublishing from %q attached is %v", node, s.attached(id))
		}
	}
	s.deleteVolume(id)
	must[*csi.ControllerUnpublishVolumeResponse](t)(s.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id}))
}

func TestPublishReadOnly(t *testing.T) {
	ctx := context.Background()
	for name, test := range map[string]struct {
		capability *csi.VolumeCapability
		readOnly   bool
		device     bool   // the device has to be read-only
		context    string // what the node service is told
	}{
		"writable mount":   {mountCapability(""), false, false, "false"},
		"read-only mount":  {mountCapability(""), true, false, "true"},
		"read-only block":  {blockCapability(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER), true, true, "true"},
		"block for reader": {blockCapability(csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY), false, true, "true"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			id := s.createVolume("data", nil).GetVolumeId()
			req := publishRequest(id, test.capability)
			req.Readonly = test.readOnly
			got := must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(ctx, req))
			if s.attached(id).ReadOnly != test.device || got.GetPublishContext()["lockstep.dev/readOnly"] != test.context {
				t.Errorf("attached %+v, context %v", s.attached(id), got.GetPublishContext())
			}
		})
	}
}

func TestNodeLimit(t *testing.T) {
	ctx := context.Background()
	s := newSite(t) // allows three
	var ids []string
	for _, name := range []string{"a", "b", "c", "d"} {
		ids = append(ids, s.createVolume(name, nil).GetVolumeId())
	}
	for _, id := range ids[:3] {
		must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(ctx, publishRequest(id, mountCapability(""))))
	}
	_, err := s.ControllerPublishVolume(ctx, publishRequest(ids[3], mountCapability("")))
	wantCode(t, err, codes.ResourceExhausted)
	must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(ctx, publishRequest(ids[0], mountCapability(""))))
	must[*csi.ControllerUnpublishVolumeResponse](t)(s.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: ids[0]}))
	must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(ctx, publishRequest(ids[3], mountCapability(""))))
}

// TestReconcileAttachesAgain checks that a new process attaches what was
// published, as a machine that was rebooted needs it.
func TestReconcileAttachesAgain(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	id := s.createVolume("data", nil).GetVolumeId()
	must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(ctx, publishRequest(id, mountCapability(""))))
	s.Close()
	if err := s.backend.Detach(ctx, parseID(t, id)); err != nil {
		t.Fatal(err)
	}
	next := startSite(t, s.db, s.backend)
	if err := next.Reconcile(ctx); err != nil {
		t.Fatal(err)
	}
	if next.attached(id) == nil {
		t.Error("a published volume is not attached after a restart")
	}
	_, err := s.ControllerPublishVolume(ctx, publishRequest(id, mountCapability("")))
	wantCode(t, err, codes.Unavailable) // the closed one
}

// TestReconcileLeavesReplicasAlone: a site that comes back as its peer's replica has nothing
// to attach, and nothing that has failed.
func TestReconcileLeavesReplicasAlone(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	id := s.createVolume("data", nil).GetVolumeId()
	must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(ctx, publishRequest(id, mountCapability(""))))
	s.Close()
	s.backend.Before = func(call string) error {
		if call == "Attach" {
			return controller.ErrNotPrimary
		}
		return nil
	}
	next := startSite(t, s.db, s.backend)
	if err := next.Reconcile(ctx); err != nil {
		t.Error(err)
	}
	s.backend.Before = nil
	must[*csi.ControllerUnpublishVolumeResponse](t)(next.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id}))
}

// TestUnpublishInUse refuses to detach a device that is open, and a restart
// must then attach it again for those who have it open.
func TestUnpublishInUse(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	id := s.createVolume("data", nil).GetVolumeId()
	must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(ctx, publishRequest(id, mountCapability(""))))
	s.backend.SetOpen(parseID(t, id), true)
	_, err := s.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id})
	wantCode(t, err, codes.FailedPrecondition)
	next := startSite(t, s.db, s.backend)
	if err := next.Reconcile(ctx); err != nil {
		t.Fatal(err)
	}
	if next.attached(id) == nil {
		t.Error("a device in use was detached")
	}
	s.backend.SetOpen(parseID(t, id), false)
	must[*csi.ControllerUnpublishVolumeResponse](t)(next.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id}))
	if next.attached(id) != nil {
		t.Error("the device is still attached")
	}
}

// The device can be gone although the volume is recorded as published: a site
// that had been demoted starts without it. The next call must bring it back.
func TestPublishAttachesWhatIsMissing(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	id := s.createVolume("data", nil).GetVolumeId()
	must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(ctx, publishRequest(id, mountCapability(""))))
	if err := s.backend.Detach(ctx, parseID(t, id)); err != nil {
		t.Fatal(err)
	}
	must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(ctx, publishRequest(id, mountCapability(""))))
	if s.attached(id) == nil {
		t.Error("a repeated publish left the volume without its device")
	}
}

// anyNode has every node.
type anyNode struct{ controller.Nodes }

func (anyNode) Check(context.Context, string) error { return nil }

// A volume that could not be detached from a node, and whose device is in use there, is
// not taken for attached to the next one: to detach it from where it is has an effect.
func TestPublishElsewhereLeavesWhatIsInUse(t *testing.T) {
	ctx := context.Background()
	db, backend := kv.NewMemory(), controllertest.NewBackend(testStart)
	server, err := controller.New(controller.Config{Catalog: catalog.New(db), Backend: backend, Nodes: anyNode{testNodes}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	s := &site{Server: server, t: t, backend: backend, db: db}
	id := s.createVolume("data", nil).GetVolumeId()
	at := func(node string) *csi.ControllerPublishVolumeRequest {
		req := publishRequest(id, mountCapability(""))
		req.NodeId = node
		return req
	}
	leave := func(node string) error {
		_, err := s.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: node})
		return err
	}
	must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(ctx, at("a")))
	backend.Before = func(call string) error {
		if call == "Detach" {
			return controller.ErrUnavailable
		}
		return nil
	}
	wantCode(t, leave("a"), codes.Unavailable)
	backend.Before = nil
	backend.SetOpen(parseID(t, id), true)
	_, err = s.ControllerPublishVolume(ctx, at("b"))
	wantCode(t, err, codes.FailedPrecondition)
	wantCode(t, leave("a"), codes.FailedPrecondition) // it is in use there
	backend.SetOpen(parseID(t, id), false)
	if err := leave("a"); err != nil || s.attached(id) != nil {
		t.Errorf("leave a: %v, attached %v", err, s.attached(id))
	}
	must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(ctx, at("b")))
	if store := backend.Stores()[parseID(t, id)]; store.Node != "b" {
		t.Errorf("attached to %s", store.Node)
	}
}

// impatient is a site whose calls wait for each other for a moment only, so that they end
// what waits for an engine soon.
func impatient(t *testing.T) *site {
	t.Helper()
	db, backend := kv.NewMemory(), controllertest.NewBackend(testStart)
	server, err := controller.New(controller.Config{
		Catalog: catalog.New(db), Backend: backend, Nodes: testNodes, LockWait: 100 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return &site{Server: server, t: t, backend: backend, db: db}
}

// askAgain repeats a call that is answered Aborted, as callers do, but not for ever.
func askAgain(t *testing.T, call func(context.Context) error) {
	t.Helper()
	bounded, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := call(bounded)
	for status.Code(err) == codes.Aborted && bounded.Err() == nil {
		err = call(bounded)
	}
	if err != nil {
		t.Error(err)
	}
}

// A volume whose engine does not come on a node, because it finds no room there for example,
// can be taken off that node again: nobody waits for the engine any more then.
func TestUnpublishEndsAPublishThatWaits(t *testing.T) {
	for _, node := range []string{testNode, ""} {
		s := impatient(t)
		id := s.createVolume("data", nil).GetVolumeId()
		s.backend.Attaching = make(chan struct{})
		ctx, giveUp := context.WithCancel(t.Context())
		published := make(chan error)
		go func() {
			_, err := s.ControllerPublishVolume(ctx, publishRequest(id, mountCapability("")))
			published <- err
		}()
		s.backend.Attaching <- struct{}{} // it waits
		giveUp()
		wantCode(t, <-published, codes.Aborted)
		// From another node there is nothing to take it off.
		must[*csi.ControllerUnpublishVolumeResponse](t)(s.ControllerUnpublishVolume(t.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: "other"}))
		askAgain(t, func(ctx context.Context) error {
			_, err := s.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: node})
			return err
		})
		s.backend.Attaching = nil
		must[*csi.ControllerPublishVolumeResponse](t)(s.ControllerPublishVolume(t.Context(), publishRequest(id, mountCapability(""))))
		checkAgreement(t, s)
	}
}

// An expansion waits for the volume's engine as well, which a node that is lost does not give
// back: who takes the volume off that node, or attaches it, comes first, and it is tried
// again behind that.
func TestAnExpansionGivesWay(t *testing.T) {
	s := impatient(t)
	id := s.createVolume("data", nil).GetVolumeId()
	publish := func(ctx context.Context) error {
		_, err := s.ControllerPublishVolume(ctx, publishRequest(id, mountCapability("")))
		return err
	}
	unpublish := func(ctx context.Context) error {
		_, err := s.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: testNode})
		return err
	}
	expand := func() error {
		_, err := s.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: 128 * mib}})
		return err
	}
	for _, comes := range []func(context.Context) error{publish, unpublish} {
		s.backend.Expanding = make(chan struct{})
		expanded := make(chan error)
		go func() { expanded <- expand() }()
		s.backend.Expanding <- struct{}{} // it waits
		askAgain(t, comes)
		wantCode(t, <-expanded, codes.Aborted)
		s.backend.Expanding = nil
	}
	if err := expand(); err != nil {
		t.Error(err)
	}
	checkAgreement(t, s)
}
