package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// epoch is the moment at which every test takes place.
var epoch = time.Date(2026, 11, 22, 10, 42, 0, 0, time.UTC)

func before(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(epoch.Add(-d)) }

// fakeSite is an admin API with state: one group, its points, views and rewind
// behave as the proto file says, so tests look at what commands achieved and
// not at which calls they made.
type fakeSite struct {
	adminv1.UnimplementedAdminServer

	mu     sync.Mutex
	group  *adminv1.Group
	points []*adminv1.Point // newest first
	views  []*adminv1.View
	opened int
	forks  []*adminv1.Fork
	// unready is how many more looks at the group find it not ready.
	unready int
	// onLook, when set, is called at each of these looks.
	onLook func()
	// failedOverTo is the "at" of the last failover that was no dry run.
	failedOverTo string
	// adopted are ids of further volumes.
	adopted []string
	// replicas are ids of volumes that were deleted at their primary.
	replicas []string
	// goesAfterRemoval is what GetStatus answers once one of them was removed; nil: as
	// before. statusFails is what it answers now.
	goesAfterRemoval, statusFails error
	// claims is the namespace of the claims that the volumes are for, as in a
	// cluster, where a volume's own name says nothing; empty: there are none.
	claims string
	// absent says that nothing has arrived of the second volume.
	absent bool
	// asleep, when set, is why the last member's timelines are not known.
	asleep string
	// damaged is what a scrub finds.
	damaged []*adminv1.Damage
	// unserved is why the second volume's device is not served; empty: it has none.
	unserved string
	// fail, when set, is the answer to every call.
	fail error
	// hang, when set, holds every call until it is closed or the caller gives up.
	hang chan struct{}
}

func newFakeSite() *fakeSite {
	f := &fakeSite{}
	for n := uint64(1240); n > 1230; n-- {
		taken := epoch.Add(-time.Duration(1241-n) * time.Second).Add(123456789)
		f.points = append(f.points, &adminv1.Point{
			Checkpoint: n, Time: timestamppb.New(taken), ValidUntil: timestamppb.New(taken.Add(500 * time.Millisecond)), Members: 2,
		})
	}
	f.points[4].Pins = []string{"before-upgrade", "snap-1"}
	f.group = &adminv1.Group{
		Name: "shop", Role: adminv1.Role_ROLE_PRIMARY, Term: 3, Peer: "b", Members: 2,
		AchievedWindow: durationpb.New(58 * time.Minute), WantedWindow: durationpb.New(time.Hour), CheckpointInterval: durationpb.New(time.Second),
		Lag: &adminv1.Lag{Records: 12, Bytes: 49152, Time: durationpb.New(340 * time.Millisecond)},
		Conditions: []*adminv1.Condition{
			{Type: "Ready", Ok: true, Reason: "AllMembersServing"},
			{Type: "WindowAchieved", Ok: false, Reason: "WindowFilling", Message: "the window reaches 58m back: wait 2m,\nor give the store more room"},
		},
	}
	return f
}

func (f *fakeSite) volumes() []*adminv1.Volume {
	volumes := []*adminv1.Volume{
		{
			Id: "v-0a1b", Name: "pgdata", Group: "shop", SizeBytes: 10 << 30, Role: f.group.GetRole(), Device: "/dev/loop7",
			Tip: &adminv1.Position{Timeline: 1, Seq: 51200}, Durable: &adminv1.Position{Timeline: 1, Seq: 51190}, Horizon: &adminv1.Position{Timeline: 1, Seq: 7},
			JournalBytes: 3 << 29, IndexExtents: 40960, IndexBytes: 1 << 20, Store: "/var/lib/lockstep/volumes/v-0a1b",
			Lag: &adminv1.Lag{Records: 12, Bytes: 49152, Time: durationpb.New(340 * time.Millisecond)},
			Tiers: []*adminv1.TierBytes{{Bytes: 1 << 30}, {Interval: durationpb.New(time.Minute), Bytes: 3 << 27}, {Interval: durationpb.New(5 * time.Minute), Bytes: 1 << 26},
				{PinsOnly: true, Bytes: 1 << 26}}, ThinnedBytes: 5 << 30,
			Transport: "dev-fuse", TransportFallback: "kernel does not offer FUSE over io_uring",
		},
		{
			Id: "v-2c3d", Name: "pgwal", Group: "shop", SizeBytes: 1 << 30, Role: f.group.GetRole(),
			Tip: &adminv1.Position{Timeline: 1, Seq: 900}, Store: "/var/lib/lockstep/volumes/v-2c3d",
			Error: "sync journal: input/output error",
		},
	}
	if f.absent {
		volumes[1].Store = ""
	}
	if f.claims != "" {
		for i, v := range volumes {
			v.Claim, v.Node, v.Store = f.claims+"/"+v.GetName(), "node-1", ""
			v.Name = fmt.Sprintf("pvc-%d", i)
		}
	}
	return volumes
}

// adopt makes the site know one more volume.
func (f *fakeSite) adopt(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.adopted = append(f.adopted, id)
}

// enter holds or fails a call as the test wants it, and locks.
func (f *fakeSite) enter(ctx context.Context) (func(), error) {
	if f.hang != nil {
		select {
		case <-f.hang:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.mu.Lock()
	if f.fail != nil {
		f.mu.Unlock()
		return nil, f.fail
	}
	return f.mu.Unlock, nil
}

func (f *fakeSite) find(group string) error {
	if group != f.group.GetName() {
		return status.Errorf(codes.NotFound, "no group %q: groups here are %s.", group, f.group.GetName())
	}
	return nil
}

// locate resolves "at" as the proto file says.
func (f *fakeSite) locate(group, at string) (*adminv1.Point, error) {
	if err := f.find(group); err != nil {
		return nil, err
	}
	newest, oldest := f.points[0], f.points[len(f.points)-1]
	for _, p := range f.points {
		pinned := false
		for _, pin := range p.GetPins() {
			pinned = pinned || at == "pin:"+pin
		}
		moment, err := time.Parse(time.RFC3339Nano, at)
		inTime := err == nil && !p.GetTime().AsTime().After(moment)
		if at == "latest" || pinned || inTime || at == strconv.FormatUint(p.GetCheckpoint(), 10) {
			return p, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "no recovery point at %s: the nearest are %d and %d", at, newest.GetCheckpoint(), oldest.GetCheckpoint())
}

func (f *fakeSite) look() *adminv1.Group {
	group := proto.CloneOf(f.group)
	group.Newest = f.points[0]
	if f.onLook != nil {
		f.onLook()
	}
	if f.unready > 0 {
		f.unready--
		group.Conditions[0] = &adminv1.Condition{Type: "Ready", Reason: "Recovering", Message: "wait for recovery"}
	}
	return group
}

func (f *fakeSite) GetStatus(ctx context.Context, _ *adminv1.GetStatusRequest) (*adminv1.GetStatusResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if f.statusFails != nil {
		return nil, f.statusFails
	}
	group := f.look()
	volumes := f.volumes()
	volumes[1].Error, volumes[1].DeviceError = "", f.unserved
	for _, id := range f.adopted {
		volumes = append(volumes, &adminv1.Volume{Id: id, Name: id})
	}
	for _, id := range f.replicas {
		volumes = append(volumes, &adminv1.Volume{Id: id, Name: "replica", Claim: "shop/lost", Group: "shop/shop", Orphaned: true})
	}
	return &adminv1.GetStatusResponse{
		Site: "a", Version: "v0.1.0", Started: before(3*time.Hour + 12*time.Minute),
		Peers: []*adminv1.Peer{
			{Site: "b", Address: "10.0.0.2:7443", Connected: true, Since: before(3 * time.Hour)},
			{Site: "c", Address: "10.0.0.3:7443", LastError: "dial tcp 10.0.0.3:7443: connection refused", Since: before(12 * time.Minute)},
		},
		Groups: []*adminv1.Group{group}, Volumes: volumes,
	}, nil
}

func (f *fakeSite) RemoveReplica(ctx context.Context, r *adminv1.RemoveReplicaRequest) (*adminv1.RemoveReplicaResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if !slices.Contains(f.replicas, r.GetVolume()) {
		return nil, status.Error(codes.FailedPrecondition, "it is fed by site b")
	}
	f.replicas = slices.DeleteFunc(f.replicas, func(id string) bool { return id == r.GetVolume() })
	f.statusFails = f.goesAfterRemoval
	return &adminv1.RemoveReplicaResponse{}, nil
}

func (f *fakeSite) ListGroups(ctx context.Context, _ *adminv1.ListGroupsRequest) (*adminv1.ListGroupsResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return &adminv1.ListGroupsResponse{Groups: []*adminv1.Group{f.look()}}, nil
}

func (f *fakeSite) DescribeGroup(ctx context.Context, r *adminv1.DescribeGroupRequest) (*adminv1.DescribeGroupResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := f.find(r.GetGroup()); err != nil {
		return nil, err
	}
	members := f.volumes()
	if f.group.GetRewind() == nil && f.group.GetRole() == adminv1.Role_ROLE_PRIMARY && f.group.GetTerm() > 3 {
		members[1].Error = ""
	}
	answer := &adminv1.DescribeGroupResponse{
		Group: f.look(), Members: members,
		Timelines: []*adminv1.Timeline{
			{Id: 1, Created: before(26 * time.Hour), Reason: "created", Active: true},
			{Id: 2, Parent: &adminv1.Position{Timeline: 1, Seq: 4096}, Created: before(90 * time.Minute), Reason: "rewind to checkpoint 900, undone"},
		},
		Pinned: []*adminv1.Point{f.points[4]}, Oldest: f.points[len(f.points)-1],
	}
	if r.GetHistory() {
		answer.History = []*adminv1.Tier{
			{Interval: durationpb.New(time.Second), Age: durationpb.New(time.Hour), Points: 3590, Oldest: before(time.Hour)},
			{Interval: durationpb.New(time.Minute), Age: durationpb.New(24 * time.Hour), Points: 412, Oldest: before(7 * time.Hour)},
			{Interval: durationpb.New(time.Hour), Age: durationpb.New(7 * 24 * time.Hour)},
		}
	}
	return answer, nil
}

func (f *fakeSite) ListTimelines(ctx context.Context, r *adminv1.ListTimelinesRequest) (*adminv1.ListTimelinesResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := f.find(r.GetGroup()); err != nil {
		return nil, err
	}
	answer := &adminv1.ListTimelinesResponse{}
	for _, v := range f.volumes() {
		answer.Volumes = append(answer.Volumes, &adminv1.VolumeTimelines{
			VolumeId: v.GetId(), VolumeName: v.GetName(), Claim: v.GetClaim(), Horizon: &adminv1.Position{Timeline: 1, Seq: 100},
			Timelines: []*adminv1.Timeline{
				{Id: 1, Created: before(26 * time.Hour), Reason: "created", LastSeq: 4096, Bytes: 64 << 20, Leads: true, Pins: []string{"before-upgrade"}, Views: 1},
				{Id: 2, Parent: &adminv1.Position{Timeline: 1, Seq: 2048}, Created: before(90 * time.Minute), Reason: "rewind 0123456789abcdef", LastSeq: 3000, Bytes: 192 << 20, Orphaned: true},
				{Id: 3, Parent: &adminv1.Position{Timeline: 1, Seq: 4096}, Created: before(time.Hour), Reason: "commit-fork 0123456789abcde0", LastSeq: 51200, Bytes: 1 << 30, Active: true},
			},
		})
	}
	if f.asleep != "" {
		last := answer.Volumes[len(answer.Volumes)-1]
		last.Error, last.Horizon, last.Timelines = f.asleep, nil, nil
	}
	return answer, nil
}

func (f *fakeSite) ListPoints(ctx context.Context, r *adminv1.ListPointsRequest) (*adminv1.ListPointsResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := f.find(r.GetGroup()); err != nil {
		return nil, err
	}
	answer := &adminv1.ListPointsResponse{}
	for _, p := range f.points {
		taken := p.GetTime().AsTime()
		if r.GetFrom() != nil && taken.Before(r.GetFrom().AsTime()) || r.GetTo() != nil && taken.After(r.GetTo().AsTime()) {
			continue
		}
		answer.Total++
		if len(answer.Points) < int(r.GetLimit()) {
			answer.Points = append(answer.Points, p)
		}
	}
	return answer, nil
}

func (f *fakeSite) TakePoint(ctx context.Context, r *adminv1.TakePointRequest) (*adminv1.TakePointResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := f.find(r.GetGroup()); err != nil {
		return nil, err
	}
	point := &adminv1.Point{Checkpoint: f.points[0].GetCheckpoint() + 1, Time: timestamppb.New(epoch), ValidUntil: timestamppb.New(epoch), Members: 2}
	if r.GetPin() != "" {
		point.Pins = []string{r.GetPin()}
	}
	f.points = append([]*adminv1.Point{point}, f.points...)
	return &adminv1.TakePointResponse{Point: point, Stall: durationpb.New(180 * time.Microsecond)}, nil
}

func (f *fakeSite) DropPin(ctx context.Context, r *adminv1.DropPinRequest) (*adminv1.DropPinResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	for _, p := range f.points {
		if i := slices.Index(p.Pins, r.GetPin()); i >= 0 {
			p.Pins = slices.Delete(p.Pins, i, i+1)
			return &adminv1.DropPinResponse{Point: p}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "group %s has no recovery point pin:%s", r.GetGroup(), r.GetPin())
}

// ReopenVolume finds only those that are stopped not to be well.
func (f *fakeSite) ReopenVolume(ctx context.Context, r *adminv1.ReopenVolumeRequest) (*adminv1.ReopenVolumeResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	for _, v := range f.volumes() {
		if v.GetId() == r.GetVolume() || v.GetName() == r.GetVolume() {
			stopped := v.GetError() != ""
			v.Error = ""
			return &adminv1.ReopenVolumeResponse{Volume: v, Reopened: stopped, Took: durationpb.New(80 * time.Millisecond)}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "no volume %q", r.GetVolume())
}

// ScrubVolume finds what damaged says, of which a repair mends the first place.
func (f *fakeSite) ScrubVolume(r *adminv1.ScrubVolumeRequest, stream adminv1.Admin_ScrubVolumeServer) error {
	leave, err := f.enter(stream.Context())
	if err != nil {
		return err
	}
	defer leave()
	for _, v := range f.volumes() {
		if v.GetId() != r.GetVolume() && v.GetName() != r.GetVolume() && v.GetClaim() != r.GetVolume() {
			continue
		}
		report := &adminv1.ScrubReport{Volume: v, ReadBytes: 1 << 30, Took: durationpb.New(2 * time.Second), Damaged: f.damaged}
		if r.GetRepair() && len(f.damaged) > 0 {
			d := f.damaged[0]
			report.Peer, report.Damaged = "b", f.damaged[1:]
			report.Repaired = []*adminv1.Repaired{{File: d.GetFile(), Offset: d.GetOffset(), What: d.GetWhat()}}
		}
		v.Damaged = uint32(len(report.Damaged))
		step := &adminv1.ScrubVolumeResponse{Step: &adminv1.ScrubVolumeResponse_Progress{Progress: &adminv1.ScrubProgress{ReadBytes: 1 << 29, TotalBytes: 1 << 30}}}
		return errors.Join(stream.Send(step), stream.Send(&adminv1.ScrubVolumeResponse{Step: &adminv1.ScrubVolumeResponse_Report{Report: report}}))
	}
	return status.Errorf(codes.NotFound, "no volume %q", r.GetVolume())
}

// AdoptVolume makes a volume of any store but those whose name says otherwise.
func (f *fakeSite) AdoptVolume(ctx context.Context, r *adminv1.AdoptVolumeRequest) (*adminv1.AdoptVolumeResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if r.GetName() == "taken" {
		return nil, status.Error(codes.AlreadyExists, "volume exists")
	}
	return &adminv1.AdoptVolumeResponse{Volume: &adminv1.Volume{
		Id: "09000000000000000000000000000000", Name: r.GetName(), Group: cmp.Or(r.GetGroup(), r.GetName()), SizeBytes: 1 << 30,
		Tip: &adminv1.Position{Timeline: 1}, Durable: &adminv1.Position{Timeline: 1}, Horizon: &adminv1.Position{Timeline: 1},
	}}, nil
}

func (f *fakeSite) OpenView(ctx context.Context, r *adminv1.OpenViewRequest) (*adminv1.OpenViewResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	point, err := f.locate(r.GetGroup(), r.GetAt())
	if err != nil {
		return nil, err
	}
	f.opened++
	view := &adminv1.View{Id: fmt.Sprintf("view-%d", f.opened), Group: "shop", Point: point, Took: durationpb.New(12 * time.Millisecond)}
	for _, v := range f.volumes() {
		export := &adminv1.ViewExport{VolumeId: v.GetId(), VolumeName: v.GetName(), Claim: v.GetClaim()}
		if v.GetClaim() != "" {
			export.NbdUri = "nbd://127.0.0.1:10809/" + v.GetId()
		} else {
			export.NbdSocket = "/run/lockstep/views/" + view.GetId() + "/" + v.GetName() + ".sock"
			export.NbdUri = "nbd+unix:///" + v.GetId() + "?socket=" + export.NbdSocket
		}
		view.Exports = append(view.Exports, export)
	}
	f.views = append(f.views, view)
	return &adminv1.OpenViewResponse{View: view}, nil
}

func (f *fakeSite) CloseView(ctx context.Context, r *adminv1.CloseViewRequest) (*adminv1.CloseViewResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	for i, view := range f.views {
		if view.GetId() == r.GetId() {
			f.views = append(f.views[:i], f.views[i+1:]...)
			return &adminv1.CloseViewResponse{}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "no view %q", r.GetId())
}

func (f *fakeSite) ListViews(ctx context.Context, r *adminv1.ListViewsRequest) (*adminv1.ListViewsResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	answer := &adminv1.ListViewsResponse{}
	for _, view := range f.views {
		if r.GetGroup() == "" || r.GetGroup() == view.GetGroup() {
			answer.Views = append(answer.Views, view)
		}
	}
	return answer, nil
}

func (f *fakeSite) StartRewind(ctx context.Context, r *adminv1.StartRewindRequest) (*adminv1.StartRewindResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	to, err := f.locate(r.GetGroup(), r.GetAt())
	if err != nil {
		return nil, err
	}
	rewind := &adminv1.Rewind{To: to, From: f.points[0], Started: before(3 * time.Minute)}
	if !r.GetDryRun() {
		f.group.Rewind = rewind
	}
	return &adminv1.StartRewindResponse{Rewind: rewind, Took: durationpb.New(34 * time.Millisecond)}, nil
}

func (f *fakeSite) rewound(group string) (*adminv1.Rewind, error) {
	if err := f.find(group); err != nil {
		return nil, err
	}
	if f.group.GetRewind() == nil {
		return nil, status.Errorf(codes.FailedPrecondition, "group %s has no rewind in progress: start one with rewind start", group)
	}
	return f.group.GetRewind(), nil
}

func (f *fakeSite) UndoRewind(ctx context.Context, r *adminv1.UndoRewindRequest) (*adminv1.UndoRewindResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	rewind, err := f.rewound(r.GetGroup())
	if err != nil {
		return nil, err
	}
	if !r.GetDryRun() {
		f.group.Rewind = nil
	}
	return &adminv1.UndoRewindResponse{To: rewind.GetFrom(), Took: durationpb.New(9 * time.Millisecond)}, nil
}

func (f *fakeSite) CommitRewind(ctx context.Context, r *adminv1.CommitRewindRequest) (*adminv1.CommitRewindResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	rewind, err := f.rewound(r.GetGroup())
	if err != nil {
		return nil, err
	}
	if !r.GetDryRun() {
		f.group.Rewind = nil
	}
	return &adminv1.CommitRewindResponse{At: rewind.GetTo()}, nil
}

func (f *fakeSite) Failover(ctx context.Context, r *adminv1.FailoverRequest) (*adminv1.FailoverResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	point, err := f.locate(r.GetGroup(), r.GetAt())
	if err != nil {
		return nil, err
	}
	answer := &adminv1.FailoverResponse{
		Point: point, Term: f.group.GetTerm() + 1, Rpo: durationpb.New(epoch.Sub(point.GetTime().AsTime())), Took: durationpb.New(210 * time.Millisecond),
	}
	for _, v := range f.volumes() {
		answer.VolumeIds = append(answer.VolumeIds, v.GetId())
		answer.Volumes = append(answer.Volumes, &adminv1.FailoverVolume{Id: v.GetId(), Name: v.GetName(), Claim: v.GetClaim()})
	}
	if !r.GetDryRun() {
		f.failedOverTo = r.GetAt()
		f.group.Role, f.group.Term = adminv1.Role_ROLE_PRIMARY, answer.GetTerm()
	}
	return answer, nil
}

// serve answers on a Unix socket in a fresh directory until the test ends.
func (f *fakeSite) serve(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "admin.sock")
	f.serveOn(t, socket)
	return socket
}

func (f *fakeSite) serveOn(t *testing.T, socket string) {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	adminv1.RegisterAdminServer(server, f)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil && !strings.Contains(err.Error(), "stopped") {
			t.Error(err)
		}
	})
}
