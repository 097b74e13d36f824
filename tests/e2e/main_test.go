//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
)

// env is what this run was given.
var env *Environment

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

// runAll runs the tests and fails if they leave anything in a cluster.
func runAll(m *testing.M) int {
	klog.SetLogger(logr.Discard()) // client-go logs each stream that a test cuts off
	var err error
	if env, err = EnvironmentOf(os.Getenv); err != nil {
		return complain(err)
	}
	ctx := context.Background()
	before := map[*Cluster]Inventory{}
	for _, c := range env.Clusters() {
		if before[c], err = c.TakeInventory(ctx); err != nil {
			return complain(err)
		}
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		s := <-interrupted
		fmt.Fprintf(os.Stderr, "e2e: %s, taking away what the tests have made\n", s)
		os.Exit(complain(errors.Join(fmt.Errorf("ended by %s", s), removeNamespaces(ctx, before), removeReleases(ctx))))
	}()
	status := m.Run()
	if err := removeReleases(ctx); err != nil {
		status = complain(err)
	}
	if err := PrintFigures(os.Stdout); err != nil {
		status = complain(err)
	}
	for c, inventory := range before {
		if err := c.Leftovers(ctx, inventory); err != nil {
			status = complain(err)
		}
	}
	return status
}

// complain is for failures outside of tests.
func complain(err error) int {
	fmt.Fprintf(os.Stderr, "e2e: %v\nFAIL\n", err)
	return 1
}

// removeNamespaces takes away the namespaces that this run's tests made.
func removeNamespaces(ctx context.Context, before map[*Cluster]Inventory) error {
	var errs []error
	for c, inventory := range before {
		list, err := c.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: ownerLabel})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, found := range list.Items {
			if !inventory["namespaces "+found.Name] {
				n := &Namespace{Cluster: c, Namespace: found.Name}
				errs = append(errs, n.remove(ctx))
			}
		}
	}
	return errors.Join(errs...)
}

// both returns both clusters and skips the test when there is one.
func both(t *testing.T) (a, b *Cluster) {
	t.Helper()
	if env.B == nil {
		t.Skip("not tested: needs two clusters, and KUBECONFIG_B is not set")
	}
	return env.A, env.B
}
