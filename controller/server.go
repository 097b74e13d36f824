package controller

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/internal/keylock"
	"github.com/lockstep-csi/lockstep/journal"
)

// defaultLockWait is how long a call waits for another one on the same object
// before it is answered Aborted: longer than a usual call takes, shorter than
// callers' time-outs.
const defaultLockWait = 2 * time.Second

// Config is what a Server needs.
type Config struct {
	Catalog *catalog.Catalog // required
	Backend Backend          // required
	Nodes   Nodes            // required
	// Claims tells of the claims that volumes are for; nil: nobody does.
	Claims Claims
	// Reserved tells of an id that the catalog does not have whether the site has a
	// volume of it, which a creation must neither take nor, where it fails, remove: true
	// gives a new volume another id, and an error refuses it. nil: there are none.
	Reserved func(journal.VolumeID) (bool, error)
	// MaxVolumesPerNode bounds the volumes that are published to a node at a time; 0 is
	// no bound. It is to be what NodeGetInfo says.
	MaxVolumesPerNode int64
	// LockWait is how long a call waits for its turn; 0: 2 s.
	LockWait time.Duration
	Log      *slog.Logger // nil: slog.Default()
}

// Validate reports the first field that cannot be used.
func (c *Config) Validate() error {
	switch {
	case c.Catalog == nil:
		return errors.New("controller configuration: Catalog is missing")
	case c.Backend == nil:
		return errors.New("controller configuration: Backend is missing")
	case c.Nodes == nil:
		return errors.New("controller configuration: Nodes is missing")
	case c.MaxVolumesPerNode < 0:
		return errors.New("controller configuration: MaxVolumesPerNode is negative")
	case c.LockWait < 0:
		return errors.New("controller configuration: LockWait is negative")
	}
	return nil
}

// Server implements csi.ControllerServer and csi.GroupControllerServer. Its
// methods may be called concurrently.
type Server struct {
	csi.UnimplementedControllerServer
	csi.UnimplementedGroupControllerServer

	cfg   Config
	log   *slog.Logger
	locks keylock.Set
	ops   operations
	// waiting are the attachments and expansions under way.
	waiting waiting
}

// New returns a server. Call Reconcile before serving and Close at the end.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.LockWait == 0 {
		cfg.LockWait = defaultLockWait
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Server{cfg: cfg, log: cfg.Log.With("component", "controller"), ops: newOperations()}, nil
}

// Close interrupts the operations in progress, waits for them, and makes later
// calls fail with ErrClosed. What was interrupted is picked up by the next
// Reconcile. The catalog and the backend stay open.
func (s *Server) Close() { s.ops.close() }

// Ready returns nil once volumes can be served, for the identity service.
func (s *Server) Ready(ctx context.Context) error { return s.cfg.Backend.Ready(ctx) }

// ControllerGetCapabilities implements csi.ControllerServer.
func (s *Server) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	out := &csi.ControllerGetCapabilitiesResponse{}
	for _, kind := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_READONLY,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES,
		csi.ControllerServiceCapability_RPC_GET_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.ControllerServiceCapability_RPC_MODIFY_VOLUME,
		csi.ControllerServiceCapability_RPC_GET_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.ControllerServiceCapability_RPC_LIST_VOLUME_HEALTH,
	} {
		out.Capabilities = append(out.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: kind}},
		})
	}
	return out, nil
}

// GroupControllerGetCapabilities implements csi.GroupControllerServer.
func (s *Server) GroupControllerGetCapabilities(context.Context, *csi.GroupControllerGetCapabilitiesRequest) (*csi.GroupControllerGetCapabilitiesResponse, error) {
	rpc := &csi.GroupControllerServiceCapability_RPC{
		Type: csi.GroupControllerServiceCapability_RPC_CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT,
	}
	return &csi.GroupControllerGetCapabilitiesResponse{Capabilities: []*csi.GroupControllerServiceCapability{
		{Type: &csi.GroupControllerServiceCapability_Rpc{Rpc: rpc}},
	}}, nil
}
