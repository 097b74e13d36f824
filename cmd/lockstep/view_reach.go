package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"google.golang.org/protobuf/proto"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// exportName is what the engine's NBD server calls an image: the path of its
// URI, whatever the URI says of where the server is.
func exportName(e *adminv1.ViewExport) string {
	uri, err := url.Parse(e.GetNbdUri())
	if err != nil {
		return e.GetNbdUri()
	}
	return strings.TrimPrefix(uri.Path, "/")
}

// hintForward tells how to reach the images of a view in a cluster. Each is on
// the loopback interface of its engine's pod.
func (a *app) hintForward(ctx context.Context, view *adminv1.View) {
	c, err := a.inCluster()
	for _, e := range view.GetExports() {
		pod := kubenames.Engine(e.GetVolumeId())
		if err == nil {
			pod = c.EnginePod(ctx, e.GetVolumeId())
		}
		a.hint("to reach %s: `%s`, then nbd://127.0.0.1:%d/%s", firstOf(exportVolume(e), e.GetVolumeId()),
			a.kubectlCommand(a.kubectl.options.DriverNamespace, fmt.Sprintf("port-forward pod/%s %d", pod, cluster.NBDPort)), cluster.NBDPort, exportName(e))
	}
	a.hint("or let this command do it: view open --forward")
}

// forwardView shows each image of a view on a local port. It returns the view
// with the URIs of these, and what ends the forwarding.
func (a *app) forwardView(ctx context.Context, c *cluster.Cluster, view *adminv1.View) (*adminv1.View, func() error, error) {
	local := proto.CloneOf(view)
	var listeners []*cluster.Listener
	stop := func() error {
		var errs []error
		for _, l := range listeners {
			errs = append(errs, l.Close())
		}
		return errors.Join(errs...)
	}
	for _, e := range local.GetExports() {
		pod := c.EnginePod(ctx, e.GetVolumeId())
		l, err := c.Listen(pod, cluster.NBDPort, func(err error) { a.tell("%s: %v\n", pod, err) })
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		listeners = append(listeners, l)
		e.NbdUri, e.NbdSocket = "nbd://"+l.Address()+"/"+exportName(e), ""
	}
	return local, stop, nil
}

// openForwarded prints a view that was opened with local URIs, and forwards
// until ctx ends.
func (a *app) openForwarded(ctx context.Context, output *outputFlag, admin *adminFlags, view *adminv1.View) error {
	c, err := a.inCluster()
	if err != nil {
		return err
	}
	local, stop, err := a.forwardView(ctx, c, view)
	if err != nil {
		return err
	}
	if err := a.printOpenedView(output, admin, local); err != nil {
		return errors.Join(err, stop())
	}
	a.hint("forwarding until this command is interrupted; the view stays open after that")
	<-ctx.Done()
	return stop()
}
