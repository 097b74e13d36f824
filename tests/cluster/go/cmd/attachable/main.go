// attachable is the kit's own CSI driver: storage that Kubernetes attaches to one node at a time, as a disk array or
// a cloud's disks are. A volume is a sparse image file that every node of the site can reach; which node has it
// attached is written beside it, and no other node gets it before it is detached. It has its size, it can grow, and a
// claim for more than there is fails as it does elsewhere.
//
// One process on the host is the controller, one on each node is the node plugin.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"k8s.io/klog/v2"
	"k8s.io/mount-utils"
	utilexec "k8s.io/utils/exec"
)

// driverName is what backing.yaml names as the provisioner.
const driverName = "attachable.cluster.local"

func main() {
	socket := flag.String("socket", "", "path of the socket to serve on")
	volumes := flag.String("volumes", "", "absolute path of the folder that holds the volumes")
	nodeName := flag.String("node", "", "name of the node; empty for the controller")
	flag.Parse()
	if err := run(*socket, *volumes, *nodeName); err != nil {
		fmt.Fprintln(os.Stderr, "attachable:", err)
		os.Exit(1)
	}
}

func run(socket, volumes, nodeName string) error {
	if socket == "" || !filepath.IsAbs(volumes) || flag.NArg() > 0 {
		return errors.New("needs -socket, and -volumes with an absolute path")
	}
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(logErrors))
	csi.RegisterIdentityServer(server, identity{})
	if nodeName == "" {
		csi.RegisterControllerServer(server, &controller{store: store(volumes)})
	} else {
		csi.RegisterNodeServer(server, &node{store: store(volumes), name: nodeName,
			mounter: &mount.SafeFormatAndMount{Interface: mount.New(""), Exec: utilexec.New()}})
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, server.GracefulStop)
	return server.Serve(listener)
}

func logErrors(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	answer, err := handle(ctx, request)
	if err != nil {
		klog.ErrorS(err, "failed", "method", info.FullMethod, "request", request)
	}
	return answer, err
}

type identity struct {
	csi.UnimplementedIdentityServer
}

func (identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: driverName, VendorVersion: "1"}, nil
}

func (identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{
		{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE}}},
		{Type: &csi.PluginCapability_VolumeExpansion_{VolumeExpansion: &csi.PluginCapability_VolumeExpansion{Type: csi.PluginCapability_VolumeExpansion_ONLINE}}},
	}}, nil
}

func (identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}
