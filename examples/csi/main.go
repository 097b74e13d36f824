package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// callTimeout bounds all calls of one run together.
const callTimeout = 2 * time.Minute

func main() {
	endpoint := flag.String("endpoint", "unix:///run/lockstep/csi.sock", "CSI endpoint of the site")
	node := flag.String("node-id", "", "the site's --node-id")
	dir := flag.String("dir", "/mnt/lockstep", "directory to mount below")
	groupName := flag.String("group", "shop", "consistency group of the two volumes")
	unmount := flag.Bool("unmount", false, "unmount the volumes and keep them, as a rewind needs it; run it again without to mount")
	remove := flag.Bool("remove", false, "take everything away again, data included")
	flag.Parse()
	if *node == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "csi: -node-id is missing, or there are arguments")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	todo := (*orchestrator).provideAll
	switch {
	case *remove:
		todo = (*orchestrator).removeAll
	case *unmount:
		todo = (*orchestrator).unmountAll
	}
	if err := run(ctx, *endpoint, *node, *dir, *groupName, todo); err != nil {
		fmt.Fprintf(os.Stderr, "csi: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, endpoint, node, dir, groupName string, todo func(*orchestrator, context.Context, []volume) error) error {
	// The socket's permissions say who may call; there is no TLS on it.
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", endpoint, err)
	}
	o := orchestrator{
		controller: csi.NewControllerClient(conn), node: csi.NewNodeClient(conn), nodeID: node, dir: dir, group: groupName,
	}
	volumes := []volume{{name: groupName + "-data", fsType: "ext4"}, {name: groupName + "-wal", fsType: "xfs"}}
	return errors.Join(todo(&o, ctx, volumes), conn.Close())
}

// provideAll makes and mounts the volumes and takes a snapshot of both.
func (o *orchestrator) provideAll(ctx context.Context, volumes []volume) error {
	id := ""
	for _, v := range volumes {
		var err error
		if id, err = o.provide(ctx, v); err != nil {
			return err
		}
		fmt.Printf("volume %s of group %s: id %s, %s at %s\n", v.name, o.group, id, v.fsType, o.target(v))
	}
	s, err := o.snapshot(ctx, id)
	if err != nil {
		return err
	}
	fmt.Printf("snapshot of group %s: id %s, of %s\n", o.group, s.GetSnapshotId(), s.GetCreationTime().AsTime().Format(time.RFC3339Nano))
	return nil
}

// unmountAll takes the file systems from their mount points; the volumes stay
// attached.
func (o *orchestrator) unmountAll(ctx context.Context, volumes []volume) error {
	for _, v := range volumes {
		made, err := o.create(ctx, v) // its id
		if err != nil {
			return err
		}
		if err := o.unmount(ctx, v, made.GetVolumeId()); err != nil {
			return err
		}
		fmt.Printf("volume %s of group %s: unmounted\n", v.name, o.group)
	}
	return nil
}

// removeAll undoes provideAll, whatever of it was done.
func (o *orchestrator) removeAll(ctx context.Context, volumes []volume) error {
	if err := o.removeSnapshot(ctx, volumes[len(volumes)-1]); err != nil {
		return err
	}
	for _, v := range volumes {
		if err := o.remove(ctx, v); err != nil {
			return err
		}
		fmt.Printf("volume %s of group %s: removed\n", v.name, o.group)
	}
	return nil
}

func (o *orchestrator) target(v volume) string  { return filepath.Join(o.dir, v.name) }
func (o *orchestrator) staging(v volume) string { return filepath.Join(o.dir, ".staging", v.name) }
