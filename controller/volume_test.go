package controller_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

func TestCreateVolumeIsIdempotent(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	first := s.createVolume("data", map[string]string{"group": "shop", "csi.storage.k8s.io/pvc/name": "a"})
	if first.GetCapacityBytes() != 64*mib || len(first.GetVolumeId()) != 32 {
		t.Errorf("volume is %v", first)
	}
	if first.GetAccessibleTopology()[0].GetSegments()["topology.lockstep.dev/node"] != testNode {
		t.Errorf("topology is %v", first.GetAccessibleTopology())
	}
	// What only describes the request does not make it another one.
	again := s.createVolume("data", map[string]string{"group": "shop", "csi.storage.k8s.io/pvc/name": "b"})
	if again.GetVolumeId() != first.GetVolumeId() {
		t.Errorf("two ids for one name: %s, %s", first.GetVolumeId(), again.GetVolumeId())
	}
	for name, change := range map[string]func(*csi.CreateVolumeRequest){
		"bigger":             func(r *csi.CreateVolumeRequest) { r.CapacityRange.RequiredBytes *= 2 },
		"smaller":            func(r *csi.CreateVolumeRequest) { r.CapacityRange = &csi.CapacityRange{LimitBytes: 32 * mib} },
		"other group":        func(r *csi.CreateVolumeRequest) { r.Parameters = nil },
		"mutable parameters": func(r *csi.CreateVolumeRequest) { r.MutableParameters = map[string]string{"window": "1h"} },
		"source":             func(r *csi.CreateVolumeRequest) { fromVolume(r, first.GetVolumeId()) },
		"too small for xfs":  func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0] = mountCapability("xfs") },
	} {
		t.Run(name, func(t *testing.T) {
			req := volumeRequest("data", map[string]string{"group": "shop"})
			change(req)
			_, err := s.CreateVolume(ctx, req)
			wantCode(t, err, codes.AlreadyExists)
		})
	}
	if n := len(s.backend.Stores()); n != 1 {
		t.Errorf("%d stores, want 1", n)
	}
}

func TestCreateVolumeRefuses(t *testing.T) {
	s := newSite(t)
	elsewhere := &csi.TopologyRequirement{Requisite: []*csi.Topology{{Segments: map[string]string{"topology.lockstep.dev/node": "other"}}}}
	for name, test := range map[string]struct {
		code   codes.Code
		change func(*csi.CreateVolumeRequest)
	}{
		"no name":         {codes.InvalidArgument, func(r *csi.CreateVolumeRequest) { r.Name = "" }},
		"long name":       {codes.InvalidArgument, func(r *csi.CreateVolumeRequest) { r.Name = strings.Repeat("n", 129) }},
		"no capabilities": {codes.InvalidArgument, func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = nil }},
		"no access type":  {codes.InvalidArgument, func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0].AccessType = nil }},
		"no access mode":  {codes.InvalidArgument, func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0].AccessMode = nil }},
		"many nodes": {codes.InvalidArgument, func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities[0].AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
		}},
		"many readers": {codes.InvalidArgument, func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities[0].AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
		}},
		"file system": {codes.InvalidArgument, func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0] = mountCapability("vfat") }},
		"small xfs": {codes.OutOfRange, func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities[0] = mountCapability("xfs")
			r.CapacityRange.LimitBytes = 299 * mib
		}},
		"another node":      {codes.ResourceExhausted, func(r *csi.CreateVolumeRequest) { r.AccessibilityRequirements = elsewhere }},
		"unknown parameter": {codes.InvalidArgument, func(r *csi.CreateVolumeRequest) { r.Parameters = map[string]string{"grop": "x"} }},
		"immutable change":  {codes.InvalidArgument, func(r *csi.CreateVolumeRequest) { r.MutableParameters = map[string]string{"group": "x"} }},
		"member of nothing": {codes.InvalidArgument, func(r *csi.CreateVolumeRequest) { r.Parameters = map[string]string{"lockstep.dev/member": "x"} }},
		"no such snapshot":  {codes.NotFound, func(r *csi.CreateVolumeRequest) { fromSnapshot(r, "none") }},
		"no such volume":    {codes.NotFound, func(r *csi.CreateVolumeRequest) { fromVolume(r, "none") }},
		"empty source":      {codes.InvalidArgument, func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = &csi.VolumeContentSource{} }},
		"window < interval": {codes.InvalidArgument, func(r *csi.CreateVolumeRequest) {
			r.Parameters = map[string]string{"window": "1m", "checkpointInterval": "2m"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			req := volumeRequest("data", nil)
			test.change(req)
			_, err := s.CreateVolume(context.Background(), req)
			wantCode(t, err, test.code)
		})
	}
	if len(s.backend.Stores()) != 0 {
		t.Errorf("refused volumes left %v", s.backend.Stores())
	}
	checkAgreement(t, s)
}

func TestXFSIsGivenRoom(t *testing.T) {
	s := newSite(t)
	req := volumeRequest("data", map[string]string{"csi.storage.k8s.io/fstype": "xfs"})
	volume := s.createFrom(req)
	if volume.GetCapacityBytes() != 300*mib {
		t.Errorf("an xfs volume of 64 MiB became %d bytes, want 300 MiB", volume.GetCapacityBytes())
	}
	if volume.GetVolumeContext()["lockstep.dev/fsType"] != "xfs" {
		t.Errorf("context is %v", volume.GetVolumeContext())
	}
}

func TestGroupSettings(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	alone := s.createVolume("alone", nil)
	if settings, ok := s.backend.Settings("alone"); !ok || settings != (group.Settings{}).WithDefaults() || settings.CheckpointInterval != time.Second {
		t.Errorf("a volume's own group has %+v, %t", settings, ok)
	}
	if settings, _ := s.backend.Settings("alone"); settings.History != "1s:1h,1m:24h,1h:7d" || settings.Window != 7*24*time.Hour {
		t.Errorf("by default a group has history %q and window %v", settings.History, settings.Window)
	}
	s.createVolume("data", map[string]string{"group": "shop", "window": "48h"})
	s.createVolume("wal", map[string]string{"group": "shop"}) // takes what there is
	_, err := s.CreateVolume(ctx, volumeRequest("temp", map[string]string{"group": "shop", "window": "1h"}))
	wantCode(t, err, codes.InvalidArgument)
	if !strings.Contains(status.Convert(err).Message(), "48h") {
		t.Errorf("refusal does not say what the group has: %v", err)
	}
	// Mutable parameters are what the volume is to have from now on.
	req := volumeRequest("temp", map[string]string{"group": "shop"})
	req.MutableParameters = map[string]string{"window": "1h"}
	s.createFrom(req)
	if settings, _ := s.backend.Settings("shop"); settings.Window != time.Hour {
		t.Errorf("mutable parameters left the group at %s", settings.Window)
	}
	modify := func(id string, parameters map[string]string) error {
		_, err := s.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{VolumeId: id, MutableParameters: parameters})
		return err
	}
	for range 2 {
		if err := modify(alone.GetVolumeId(), map[string]string{"checkpointInterval": "250ms"}); err != nil {
			t.Fatal(err)
		}
	}
	settings, _ := s.backend.Settings("alone")
	if settings.CheckpointInterval != 250*time.Millisecond || settings.History != group.DefaultHistory(settings.CheckpointInterval) {
		t.Errorf("after modification the group has %+v", settings)
	}
	wantCode(t, modify(alone.GetVolumeId(), map[string]string{"replicateTo": "b"}), codes.InvalidArgument)
	wantCode(t, modify(alone.GetVolumeId(), map[string]string{"checkpointInterval": "50m", "window": "1m"}), codes.InvalidArgument)
	if now, _ := s.backend.Settings("alone"); now != settings {
		t.Errorf("refused modifications changed the group to %+v", now)
	}
	checkAgreement(t, s)
}

func TestExpand(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	id := s.createVolume("data", nil).GetVolumeId()
	expand := func(required, limit int64) (*csi.ControllerExpandVolumeResponse, error) {
		return s.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
			VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: required, LimitBytes: limit},
		})
	}
	for range 2 {
		got, err := expand(100*mib, 0)
		if err != nil || got.GetCapacityBytes() != 100*mib || !got.GetNodeExpansionRequired() {
			t.Errorf("expand: %v, %v", got, err)
		}
	}
	if got, err := expand(50*mib, 0); err != nil || got.GetCapacityBytes() != 100*mib {
		t.Errorf("expand to less: %v, %v, want what it has", got, err)
	}
	_, err := expand(50*mib, 60*mib)
	wantCode(t, err, codes.OutOfRange)
	s.backend.AvailableBytes = mib
	_, err = expand(200*mib, 0)
	wantCode(t, err, codes.ResourceExhausted)
	volume := must[*csi.ControllerGetVolumeResponse](t)(s.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: id}))
	if volume.GetVolume().GetCapacityBytes() != 100*mib {
		t.Errorf("a failed expansion is shown: %v", volume)
	}
}

// Who has asked for more than there is asks for less then, as Kubernetes lets people do
// with a claim whose expansion has failed, and gets that.
func TestExpandToLessThanWasRefused(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	id := s.createVolume("data", nil).GetVolumeId()
	expand := func(required int64) (int64, error) {
		got, err := s.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: required}})
		return got.GetCapacityBytes(), err
	}
	s.backend.AvailableBytes = 50 * mib
	_, err := expand(1000 * mib)
	wantCode(t, err, codes.ResourceExhausted)
	if got, err := expand(100 * mib); err != nil || got != 100*mib {
		t.Errorf("less: %d, %v, want 100 MiB", got, err)
	}
	_, err = expand(1000 * mib)
	wantCode(t, err, codes.ResourceExhausted)
	if got, err := expand(100 * mib); err != nil || got != 100*mib {
		t.Errorf("what it has: %d, %v, want 100 MiB", got, err)
	}
	// An attempt that had grown the store before it failed is not taken for undone.
	s.backend.AvailableBytes = 0
	s.backend.After = func(call string) error { return controller.ErrUnavailable }
	_, err = expand(400 * mib)
	wantCode(t, err, codes.Unavailable)
	s.backend.After = nil
	if got, err := expand(200 * mib); err != nil || got != 400*mib {
		t.Errorf("after one that had succeeded in part: %d, %v, want the 400 MiB that the store has", got, err)
	}
	checkAgreement(t, s)
}

func TestFailedCreationLeavesNothing(t *testing.T) {
	s := newSite(t)
	s.backend.AvailableBytes = mib
	_, err := s.CreateVolume(context.Background(), volumeRequest("data", nil))
	wantCode(t, err, codes.ResourceExhausted)
	checkAgreement(t, s)
	if len(s.backend.Stores()) != 0 {
		t.Errorf("left %v", s.backend.Stores())
	}
	s.backend.AvailableBytes = 0
	s.createVolume("data", map[string]string{"group": "shop"}) // the name is free
}

func TestCapacity(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	s.backend.AvailableBytes = 7 * mib
	get := func(req *csi.GetCapacityRequest) *csi.GetCapacityResponse {
		return must[*csi.GetCapacityResponse](t)(s.GetCapacity(ctx, req))
	}
	if got := get(&csi.GetCapacityRequest{}); got.GetAvailableCapacity() != 7*mib || got.GetMinimumVolumeSize().GetValue() != mib {
		t.Errorf("capacity is %v", got)
	}
	xfs := &csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{mountCapability("xfs")}}
	if got := get(xfs); got.GetMinimumVolumeSize().GetValue() != 300*mib {
		t.Errorf("capacity for xfs is %v", got)
	}
	elsewhere := &csi.Topology{Segments: map[string]string{"topology.lockstep.dev/node": "other"}}
	if got := get(&csi.GetCapacityRequest{AccessibleTopology: elsewhere}); got.GetAvailableCapacity() != 0 {
		t.Errorf("capacity elsewhere is %v", got)
	}
	shared := blockCapability(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)
	if got := get(&csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{shared}}); got.GetAvailableCapacity() != 0 {
		t.Errorf("capacity for what is not supported is %v", got)
	}
}

// TestCapacityOfBadParameters checks that a class that cannot work has room: a
// scheduler that is told of none keeps its pods waiting for "free storage", and
// CreateVolume, which says what is wrong, is never called.
func TestCapacityOfBadParameters(t *testing.T) {
	s := newSite(t)
	got, err := s.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: map[string]string{"checkpointIntervall": "1s"}})
	if err != nil || got.GetAvailableCapacity() < 1<<40 || got.GetMaximumVolumeSize().GetValue() < 1<<40 {
		t.Errorf("a class with a parameter that does not exist has %v (%v)", got, err)
	}
}

func TestValidateVolumeCapabilities(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	id := s.createVolume("data", nil).GetVolumeId()
	for name, test := range map[string]struct {
		capability *csi.VolumeCapability
		confirmed  bool
	}{
		"mount":           {mountCapability("ext4"), true},
		"block":           {blockCapability(csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER), true},
		"too small":       {mountCapability("xfs"), false},
		"many nodes":      {blockCapability(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY), false},
		"other file type": {mountCapability("btrfs"), false},
	} {
		got, err := s.ValidateVolumeCapabilities(ctx, &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: id, VolumeCapabilities: []*csi.VolumeCapability{test.capability},
		})
		if err != nil || (got.GetConfirmed() != nil) != test.confirmed || (got.GetMessage() == "") != test.confirmed {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestHealth(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	var ids []string
	for _, name := range []string{"a", "b", "c"} {
		ids = append(ids, s.createVolume(name, nil).GetVolumeId())
	}
	broken := controller.Condition{Severity: controller.Inaccessible, Reason: "JournalPoisoned", Message: "a write failed"}
	s.backend.Conditions = map[journal.VolumeID][]controller.Condition{}
	s.backend.Conditions[parseID(t, ids[1])] = []controller.Condition{broken}
	healthy := must[*csi.ControllerGetVolumeHealthResponse](t)(s.ControllerGetVolumeHealth(ctx, &csi.ControllerGetVolumeHealthRequest{VolumeId: ids[0]}))
	if len(healthy.GetVolumeHealth().GetHealthStatuses()) != 0 {
		t.Errorf("healthy volume is %v", healthy)
	}
	list := must[*csi.ControllerListVolumeHealthResponse](t)(s.ControllerListVolumeHealth(ctx, &csi.ControllerListVolumeHealthRequest{}))
	if len(list.GetEntries()) != 1 || list.GetEntries()[0].GetVolumeId() != ids[1] {
		t.Fatalf("list is %v", list)
	}
	entry := list.GetEntries()[0].GetHealthStatuses()[0]
	if entry.GetStatus() != csi.VolumeHealthErrorType_INACCESSIBLE || entry.GetReason() != "JournalPoisoned" {
		t.Errorf("entry is %v", entry)
	}
}

// claims is what a cluster's claims say, by NAMESPACE/NAME.
type claims map[string]controller.Claim

func (c claims) Claim(_ context.Context, namespace, name string) (controller.Claim, error) {
	claim, ok := c[namespace+"/"+name]
	if !ok {
		return claim, controller.ErrNotFound
	}
	return claim, nil
}

func TestAClaimDecidesTheGroupAndTheMoment(t *testing.T) {
	s := newSite(t)
	known := claims{
		"prod/data": {Group: "prod/shop", Settings: &group.Settings{Window: 48 * time.Hour}, Attributes: map[string]string{"claim": "prod/data"}, Node: "node-7"},
		"prod/old":  {Group: "prod/copy", AsOf: "1"},
		"prod/odd":  {Group: "prod/copy", AsOf: "yesterday"},
	}
	server, err := controller.New(controller.Config{Catalog: catalog.New(s.db), Backend: s.backend, Nodes: testNodes, Claims: known})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	create := func(volume, claim string, source *csi.VolumeContentSource) (*csi.Volume, error) {
		resp, err := server.CreateVolume(context.Background(), &csi.CreateVolumeRequest{
			Name: volume, VolumeCapabilities: []*csi.VolumeCapability{mountCapability("ext4")}, VolumeContentSource: source,
			Parameters: map[string]string{"csi.storage.k8s.io/pvc/namespace": "prod", "csi.storage.k8s.io/pvc/name": claim, "backingStorageClass": "fast"},
		})
		return resp.GetVolume(), err
	}
	data, err := create("pvc-1", "data", nil)
	if err != nil {
		t.Fatal(err)
	}
	spec := s.backend.Stores()[parseID(t, data.GetVolumeId())].Spec
	if spec.Group != "prod/shop" || spec.Settings.Window != 48*time.Hour || spec.Claim != "prod/data" || spec.BackingClass != "fast" || spec.Attributes["claim"] != "prod/data" || spec.Node != "node-7" {
		t.Errorf("spec %+v", spec)
	}
	id := parseID(t, data.GetVolumeId())
	s.backend.Write(id, "then")
	point := s.backend.Checkpoint("prod/shop")
	s.backend.Write(id, "now")
	known["prod/old"] = controller.Claim{Group: "prod/copy", AsOf: fmt.Sprint(point.Checkpoint)}
	from := &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: data.GetVolumeId()}}}
	for _, tt := range []struct {
		claim  string
		source *csi.VolumeContentSource
		want   codes.Code
	}{
		{"gone", nil, codes.NotFound},
		{"old", nil, codes.InvalidArgument}, // of what?
		{"odd", from, codes.InvalidArgument},
		{"old", from, codes.OK},
	} {
		made, err := create("pvc-"+tt.claim, tt.claim, tt.source)
		if status.Code(err) != tt.want {
			t.Errorf("claim %s: %v, want %v", tt.claim, err, tt.want)
		}
		if err == nil {
			if content := s.backend.Stores()[parseID(t, made.GetVolumeId())].Content; content != "then" {
				t.Errorf("the clone holds %q", content)
			}
		}
	}
}
