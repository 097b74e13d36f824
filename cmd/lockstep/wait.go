package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// readyCondition is the condition that --wait waits for.
const readyCondition = "Ready"

// pollInterval is how often --wait looks again.
const pollInterval = 200 * time.Millisecond

func registerWait(command *cobra.Command, wait *bool, usage string) {
	command.Flags().BoolVar(wait, "wait", false, usage+"; --timeout bounds the wait")
}

// notReady says why a group is not ready, or nothing when it is. A group that
// reports no Ready condition is ready when none of its volumes has failed.
func notReady(group *adminv1.Group, members []*adminv1.Volume) string {
	for _, c := range group.GetConditions() {
		if c.GetType() == readyCondition && !c.GetOk() {
			return fmt.Sprintf("group %s: %s: %s", group.GetName(), c.GetReason(), c.GetMessage())
		}
	}
	for _, v := range members {
		if v.GetGroup() == group.GetName() && v.GetError() != "" {
			return fmt.Sprintf("volume %s: %s", volumeName(v), v.GetError())
		}
	}
	return ""
}

// waitGroup returns once group is ready.
func (a *app) waitGroup(ctx context.Context, s *site, group string) error {
	return a.poll(ctx, s, "waiting for group "+group, func(ctx context.Context) (string, error) {
		answer, err := s.DescribeGroup(ctx, &adminv1.DescribeGroupRequest{Group: group})
		if err != nil {
			return "", err
		}
		return notReady(answer.GetGroup(), answer.GetMembers()), nil
	})
}

// waitSite returns the status of a site once it answers and all of its groups
// are ready.
func (a *app) waitSite(ctx context.Context, s *site) (*adminv1.GetStatusResponse, error) {
	var answer *adminv1.GetStatusResponse
	err := a.poll(ctx, s, "waiting for the site "+s.route.where(), func(ctx context.Context) (string, error) {
		var err error
		answer, err = s.GetStatus(ctx, &adminv1.GetStatusRequest{}, grpc.WaitForReady(true))
		if status.Code(err) == codes.Unavailable {
			// It went away in the middle of the call, as a site that restarts does.
			return err.Error(), nil
		}
		if err != nil {
			return "", err
		}
		for _, group := range answer.GetGroups() {
			if why := notReady(group, answer.GetVolumes()); why != "" {
				return why, nil
			}
		}
		return "", nil
	})
	return answer, err
}

// poll calls look until it has nothing left to wait for, fails, or the site's
// time limit is over; the error then says what was still missing.
func (a *app) poll(ctx context.Context, s *site, doing string, look func(context.Context) (missing string, err error)) error {
	defer a.progress(doing)()
	limited, cancel := ctx, context.CancelFunc(func() {})
	if s.timeout > 0 {
		limited, cancel = context.WithTimeout(ctx, s.timeout)
	}
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for missing := ""; ; {
		found, err := look(limited)
		switch {
		case err == nil && found == "":
			return nil
		case err == nil:
			missing = found
		case missing == "" || !outOfTime(limited, err):
			return err
		default:
			return gaveUp(ctx, s, doing, missing)
		}
		select {
		case <-limited.Done():
			return gaveUp(ctx, s, doing, missing)
		case <-ticker.C:
		}
	}
}

// outOfTime reports whether err only says that the wait is over. The site
// knows the deadline too and may say so before this side's timer has fired.
func outOfTime(ctx context.Context, err error) bool {
	return ctx.Err() != nil || status.Code(err) == codes.DeadlineExceeded
}

// gaveUp tells an interrupt from a time limit. ctx is the one without the limit.
func gaveUp(ctx context.Context, s *site, doing, missing string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted while %s: %s", doing, missing)
	}
	return fmt.Errorf("not ready after %v: %s", s.timeout, missing)
}
