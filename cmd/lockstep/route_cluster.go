package main

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
)

// clusterRoute is a forwarded port of the controller's pod.
type clusterRoute struct{ cluster *cluster.Cluster }

func (r clusterRoute) dial(ctx context.Context) (net.Conn, error) { return r.cluster.DialAdmin(ctx) }

// patience leaves room for the API server, the kubelet and the way to them.
func (r clusterRoute) patience() time.Duration { return 20 * time.Second }
func (r clusterRoute) address() string         { return "namespace " + r.cluster.DriverNamespace }
func (r clusterRoute) where() string           { return "in namespace " + r.cluster.DriverNamespace }

func (r clusterRoute) unreachable(err error) string {
	if cluster.Denied(err) {
		return "the controller cannot be asked: " + oneSentence(err.Error()) + ": it takes `list` on pods and `create` on pods/portforward in namespace " + r.cluster.DriverNamespace
	}
	return "the controller cannot be reached: " + oneSentence(err.Error())
}

func (r clusterRoute) group(ctx context.Context, argument string) (string, error) {
	g, err := resolveGroup(ctx, r.cluster, argument)
	return g.String(), err
}

func (r clusterRoute) volume(argument string) (string, error) {
	name, err := r.cluster.ResolveVolume(argument)
	var bad *cluster.BadNameError
	if errors.As(err, &bad) {
		return name, misuse("%v", err)
	}
	return name, err
}

// resolveGroup makes an argument that names no group a misuse.
func resolveGroup(ctx context.Context, c *cluster.Cluster, argument string) (cluster.Group, error) {
	g, err := c.ResolveGroup(ctx, argument)
	var bad *cluster.BadNameError
	if errors.As(err, &bad) {
		return g, misuse("%v", err)
	}
	return g, err
}
