package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/internal/csikeys"
	"github.com/lockstep-csi/lockstep/internal/keylock"
	"github.com/lockstep-csi/lockstep/journal"
)

const (
	// defaultLockWait is how long a call waits for another one on the same
	// volume before it is answered Aborted.
	defaultLockWait = 2 * time.Second
	// defaultUnmountWait is how long an unmount may take before its caller is
	// told to come back. A file system writes back at its last unmount, and
	// waits for as long as its device has no engine.
	defaultUnmountWait = 20 * time.Second
)

// Devices knows the block devices of the volumes that are attached to this
// node. Its methods may be called concurrently.
type Devices interface {
	// Device returns the path of a volume's block device. ErrNotFound if the
	// volume is unknown or not attached here; ErrPrecondition if it is attached
	// but cannot be served at present.
	Device(ctx context.Context, id journal.VolumeID) (path string, err error)
	// Await is Device for a volume that is about to be attached here: it waits
	// until the volume is served, for as long as ctx lets it.
	Await(ctx context.Context, id journal.VolumeID) (path string, err error)
	// Ready returns nil once devices can be served, else what is missing.
	Ready(ctx context.Context) error
}

// Config is what a Server needs.
type Config struct {
	// NodeID is this node's name for the controller; see csikeys.CheckNodeID.
	// Required.
	NodeID string
	// MaxVolumesPerNode is told to callers; 0 is no limit.
	MaxVolumesPerNode int64
	Devices           Devices // required
	// Host is the machine; nil: this one.
	Host Host
	// StateDir holds the markers of volumes that are being formatted. It must
	// exist and survive reboots. Required.
	StateDir string
	// LockWait is how long a call waits for its turn; 0: 2 s.
	LockWait time.Duration
	// UnmountWait is how long an unmount may take before the call that wants it
	// is answered Unavailable; it goes on behind. 0: 20 s.
	UnmountWait time.Duration
	// DevicesByCaller: whoever calls keeps users from writing to a device that they
	// have read-only, as a kubelet does by the permissions of the container's
	// device. Where nobody does, a raw block volume that can be written to is not
	// published read-only.
	DevicesByCaller bool
	// Topology returns the segments of this node beside its id, with the keys
	// that the cluster uses (topology.kubernetes.io/zone); nil: none.
	Topology func(context.Context) (map[string]string, error)
	Log      *slog.Logger // nil: slog.Default()
}

// Validate reports the first field that cannot be used.
func (c *Config) Validate() error {
	switch {
	case c.MaxVolumesPerNode < 0:
		return errors.New("node configuration: MaxVolumesPerNode is negative")
	case c.Devices == nil:
		return errors.New("node configuration: Devices is missing")
	case c.StateDir == "":
		return errors.New("node configuration: StateDir is missing")
	case c.LockWait < 0 || c.UnmountWait < 0:
		return errors.New("node configuration: LockWait or UnmountWait is negative")
	}
	if err := csikeys.CheckNodeID(c.NodeID); err != nil {
		return fmt.Errorf("node configuration: %w", err)
	}
	return nil
}

// Server implements csi.NodeServer. Its methods may be called concurrently.
type Server struct {
	csi.UnimplementedNodeServer

	cfg   Config
	host  Host
	log   *slog.Logger
	locks keylock.Set
	// unmounting are the unmounts under way; see unmount.go.
	unmounting unmounts
}

// New returns a server; it holds nothing that would have to be closed.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Host == nil {
		cfg.Host = NewHost()
	}
	if cfg.LockWait == 0 {
		cfg.LockWait = defaultLockWait
	}
	if cfg.UnmountWait == 0 {
		cfg.UnmountWait = defaultUnmountWait
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Server{cfg: cfg, host: cfg.Host, log: cfg.Log.With("component", "node")}, nil
}

// NodeGetInfo implements csi.NodeServer.
func (s *Server) NodeGetInfo(ctx context.Context, _ *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return answer(s.getInfo(ctx))
}

func (s *Server) getInfo(ctx context.Context) (*csi.NodeGetInfoResponse, error) {
	segments := map[string]string{}
	if s.cfg.Topology != nil {
		// An answer without them would be remembered until the plugin registers
		// again; a failed call is repeated.
		found, err := s.cfg.Topology(ctx)
		if err != nil {
			return nil, fmt.Errorf("find topology of node %s: %w: %w", s.cfg.NodeID, ErrUnavailable, err)
		}
		maps.Copy(segments, found)
	}
	segments[csikeys.TopologyNode] = s.cfg.NodeID
	return &csi.NodeGetInfoResponse{
		NodeId:             s.cfg.NodeID,
		MaxVolumesPerNode:  s.cfg.MaxVolumesPerNode,
		AccessibleTopology: &csi.Topology{Segments: segments},
	}, nil
}

// NodeGetCapabilities implements csi.NodeServer.
func (s *Server) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	out := &csi.NodeGetCapabilitiesResponse{}
	for _, kind := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP,
		csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.NodeServiceCapability_RPC_GET_STORAGE_HEALTH,
	} {
		out.Capabilities = append(out.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: kind}},
		})
	}
	return out, nil
}

// whole is the context of what a call does with a file system. The caller's end does not
// end it: a tool that is killed while it changes a file system leaves one to be repaired,
// and a kubelet, which gives up after 2 min, would never see the end of what takes longer.
// Until it is done further calls for the volume are answered Aborted.
func whole(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

// lock takes a volume's turn, waiting no longer than LockWait for who has it.
func (s *Server) lock(ctx context.Context, volume string) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if unlock, free := s.locks.TryLock(volume); free {
		return unlock, nil
	}
	wait, cancel := context.WithTimeoutCause(ctx, s.cfg.LockWait, ErrBusy)
	defer cancel()
	unlock, err = s.locks.Lock(wait, volume)
	if err != nil && errors.Is(context.Cause(wait), ErrBusy) {
		err = fmt.Errorf("volume %s: %w", volume, ErrBusy)
	}
	return unlock, err
}

// device finds the block device of a volume by its CSI id.
func (s *Server) device(ctx context.Context, volume string) (Device, error) {
	return s.deviceBy(ctx, volume, s.cfg.Devices.Device)
}

func (s *Server) deviceBy(ctx context.Context, volume string, find func(context.Context, journal.VolumeID) (string, error)) (Device, error) {
	id, err := journal.ParseVolumeID(volume)
	if err != nil {
		return Device{}, fmt.Errorf("volume %s: %w", volume, ErrNotFound)
	}
	path, err := find(ctx, id)
	if err != nil {
		return Device{}, fmt.Errorf("find device of volume %s: %w", volume, err)
	}
	return s.host.Device(path)
}
