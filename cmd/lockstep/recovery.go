package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
)

// recoveryTimeout is how long the plugin waits for a recovery by default: pods
// may take their whole grace period to stop.
const recoveryTimeout = 10 * time.Minute

// errWaitedEnough ends a wait that --timeout bounds.
var errWaitedEnough = errors.New("the time is over")

// recoveryFlags are common to the plugin's verbs that make a Recovery.
type recoveryFlags struct {
	admin   adminFlags // for --dry-run, and to say what a question is about
	output  outputFlag
	wait    bool
	timeout time.Duration
}

func (f *recoveryFlags) register(a *app, command *cobra.Command) {
	f.admin.registerSite(a, command)
	f.admin.timeout = defaultTimeout
	f.output.register(command)
	command.Flags().BoolVar(&f.wait, "wait", true, "wait until the recovery has ended; --timeout bounds the wait")
	command.Flags().DurationVar(&f.timeout, "timeout", recoveryTimeout, "stop waiting after this long, with the recovery still at work; 0 waits for ever")
	command.ValidArgsFunction = a.completeGroups(&f.admin)
	command.MarkFlagsMutuallyExclusive("wait", "dry-run")
}

func (f *recoveryFlags) validate() error {
	if f.timeout < 0 {
		return misuse("--timeout %v is below zero", f.timeout)
	}
	return nil
}

// recoveryRequest is what one verb wants to be done.
type recoveryRequest struct {
	// group as a person named it.
	group string
	// verb begins the recovery's name, after the group's.
	verb string
	spec v1alpha1.RecoverySpec
	// plan has the controller say what would happen, for --dry-run.
	plan func(ctx context.Context, s *site, group string) (result, error)
	// confirm asks, and may make what is to be done what was shown; nil when nothing has
	// to be asked.
	confirm func(ctx context.Context, s *site, group string, spec *v1alpha1.RecoverySpec) error
	// done is the result of a recovery that was completed.
	done func(*v1alpha1.Recovery) result
}

// recover makes a Recovery and follows it to its end.
func (a *app) recover(ctx context.Context, f *recoveryFlags, dryRun bool, request recoveryRequest) error {
	if err := f.validate(); err != nil {
		return err
	}
	c, err := a.inCluster()
	if err != nil {
		return err
	}
	group, err := resolveGroup(ctx, c, request.group)
	if err != nil {
		return err
	}
	request.spec.Group = group.Name
	prefix := group.Name + "-" + request.verb + "-"
	if dryRun {
		return a.planRecovery(ctx, c, f, group, prefix, request)
	}
	if request.confirm != nil {
		if err := f.admin.withSite(func(s *site) error { return request.confirm(ctx, s, group.String(), &request.spec) }); err != nil {
			return err
		}
	}
	made, err := c.CreateRecovery(ctx, group.Namespace, prefix, request.spec, false)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: the recovery may have been made, see `%s`", a.kubectlCommand(group.Namespace, "get recoveries"))
		}
		return err
	}
	if !f.wait {
		return a.print(&f.output, recoveryMadeResult(made, a.followCommand(made)))
	}
	a.tell("recovery %s/%s\n", made.Namespace, made.Name)
	ended, err := a.followRecovery(ctx, c, f, made)
	if err != nil {
		return err
	}
	return a.print(&f.output, request.done(ended))
}

// planRecovery shows what would happen: the API server checks the object and
// the user's rights, the controller the rest.
func (a *app) planRecovery(ctx context.Context, c *cluster.Cluster, f *recoveryFlags, group cluster.Group, prefix string, request recoveryRequest) error {
	if _, err := c.CreateRecovery(ctx, group.Namespace, prefix, request.spec, true); err != nil {
		return err
	}
	return f.admin.withSite(func(s *site) error {
		plan, err := request.plan(ctx, s, group.String())
		if err != nil {
			return err
		}
		return a.print(&f.output, plan)
	})
}

// followRecovery tells of each phase and returns a recovery that was completed.
func (a *app) followRecovery(ctx context.Context, c *cluster.Cluster, f *recoveryFlags, made *v1alpha1.Recovery) (*v1alpha1.Recovery, error) {
	limited, cancel := ctx, context.CancelFunc(func() {})
	if f.timeout > 0 {
		limited, cancel = context.WithTimeoutCause(ctx, f.timeout, errWaitedEnough)
	}
	defer cancel()
	last := ""
	ended, err := c.FollowRecovery(limited, made.Namespace, made.Name, func(r *v1alpha1.Recovery) {
		if state := recoveryState(r); state != last && !r.Status.Phase.Ended() {
			last = state
			a.tell("  %s\n", state)
		}
	})
	name := made.Namespace + "/" + made.Name
	switch {
	case errors.Is(err, errWaitedEnough):
		return nil, fmt.Errorf("recovery %s has not ended after %v, last seen %s: it goes on, follow it with `%s`", name, f.timeout, last, a.followCommand(made))
	case ctx.Err() != nil:
		return nil, fmt.Errorf("interrupted: recovery %s goes on, follow it with `%s`", name, a.followCommand(made))
	case err != nil:
		return nil, fmt.Errorf("recovery %s: %w", name, err)
	case ended.Status.Phase == v1alpha1.PhaseFailed:
		return nil, fmt.Errorf("recovery %s failed: %s", name, firstOf(oneLine(ended.Status.Message), "it does not say why"))
	}
	return ended, nil
}

// recoveryState is a phase, and what it waits for.
func recoveryState(r *v1alpha1.Recovery) string {
	state := string(r.Status.Phase)
	if state == "" {
		state = "waiting for the controller"
	}
	if message := oneLine(r.Status.Message); message != "" {
		state += ": " + message
	}
	return state
}

func (a *app) followCommand(r *v1alpha1.Recovery) string {
	return a.kubectlCommand(r.Namespace, "get recovery "+r.Name+" --watch")
}

// kubectlCommand is a command line of kubectl itself for the same cluster.
func (a *app) kubectlCommand(namespace, verb string) string {
	words := []string{"kubectl", "-n", namespace}
	a.kubectl.set.VisitAll(func(flag *pflag.Flag) {
		switch flag.Name {
		case "namespace", "lockstep-namespace", "as", "as-group":
			return
		}
		if flag.Changed {
			words = append(words, "--"+flag.Name+"="+flag.Value.String())
		}
	})
	return strings.Join(append(words, verb), " ")
}

// outOfReach reports whether err says that the controller did not answer, as
// opposed to what it answered.
func outOfReach(err error) bool {
	return status.Code(err) == codes.Unavailable || status.Code(err) == codes.DeadlineExceeded
}

// askWithPlan asks before something that cannot be taken back. When the
// controller cannot be reached to say what would happen, the question says so:
// a failover must be possible for those who may make a recovery and no more.
func (a *app) askWithPlan(ctx context.Context, without string, ask func() error) error {
	err := ask()
	if !outOfReach(err) {
		return err
	}
	a.tell("what would happen cannot be shown: %v\n", err)
	return a.ask(ctx, without)
}
