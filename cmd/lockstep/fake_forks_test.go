package main

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// The writable forks of the site that the tests of the commands ask.

func (f *fakeSite) CreateFork(ctx context.Context, r *adminv1.CreateForkRequest) (*adminv1.CreateForkResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	point, err := f.locate(r.GetGroup(), r.GetAt())
	if err != nil {
		return nil, err
	}
	fork := &adminv1.Fork{Name: r.GetName(), Group: "shop", State: "open", Point: point, Created: timestamppb.New(epoch), Expires: timestamppb.New(epoch.Add(24 * time.Hour)),
		QuotaBytes: 64 << 30, UsedBytes: 1536 << 20, HeldBytes: 3 << 30, Took: durationpb.New(12 * time.Millisecond)}
	if r.GetQuotaBytes() > 0 {
		fork.QuotaBytes = r.GetQuotaBytes()
	}
	if r.GetMaxAge() != nil {
		fork.Expires = timestamppb.New(epoch.Add(r.GetMaxAge().AsDuration()))
	}
	for _, v := range f.volumes() {
		fork.Exports = append(fork.Exports, &adminv1.ViewExport{
			VolumeId: v.GetId(), VolumeName: v.GetName(), NbdSocket: "/run/lockstep/nbd.sock", NbdUri: "nbd+unix:///fork/" + r.GetName() + "/" + v.GetId() + "?socket=/run/lockstep/nbd.sock",
		})
	}
	f.forks = append(f.forks, fork)
	return &adminv1.CreateForkResponse{Fork: fork}, nil
}

// ListForks shows the second fork as one that was given up.
func (f *fakeSite) ListForks(ctx context.Context, r *adminv1.ListForksRequest) (*adminv1.ListForksResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	answer := &adminv1.ListForksResponse{}
	for i, fork := range f.forks {
		if r.GetGroup() != "" && r.GetGroup() != fork.GetGroup() {
			continue
		}
		if i == 1 {
			fork = &adminv1.Fork{Name: fork.GetName(), Group: fork.GetGroup(), State: "given-up", Reason: "it is older than 24h0m0s", Ended: timestamppb.New(epoch),
				Point: fork.GetPoint(), Created: fork.GetCreated(), Expires: fork.GetExpires(), QuotaBytes: fork.GetQuotaBytes()}
		}
		answer.Forks = append(answer.Forks, fork)
	}
	return answer, nil
}

func (f *fakeSite) DiscardFork(ctx context.Context, r *adminv1.DiscardForkRequest) (*adminv1.DiscardForkResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	for i, fork := range f.forks {
		if fork.GetName() == r.GetName() {
			f.forks = append(f.forks[:i], f.forks[i+1:]...)
			return &adminv1.DiscardForkResponse{}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "no fork %q", r.GetName())
}

// CommitFork leaves a group that is rewound.
func (f *fakeSite) CommitFork(ctx context.Context, r *adminv1.CommitForkRequest) (*adminv1.CommitForkResponse, error) {
	leave, err := f.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := f.find(r.GetGroup()); err != nil {
		return nil, err
	}
	for i, fork := range f.forks {
		if fork.GetName() != r.GetName() {
			continue
		}
		answer := &adminv1.CommitForkResponse{Point: fork.GetPoint(), PayloadBytes: 1400 << 20, JournalBytes: 1410 << 20, Took: durationpb.New(9 * time.Second)}
		if !r.GetDryRun() {
			f.forks = append(f.forks[:i], f.forks[i+1:]...)
			answer.Rewind = &adminv1.Rewind{To: &adminv1.Point{Checkpoint: 1241, Time: before(0)}, From: f.points[0], Started: before(time.Second), Fork: r.GetName()}
			f.group.Rewind = answer.Rewind
		}
		return answer, nil
	}
	return nil, status.Errorf(codes.NotFound, "no fork %q", r.GetName())
}
