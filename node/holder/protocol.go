package holder

import (
	"encoding/json"
	"fmt"
	"regexp"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
)

const (
	// protocolVersion is in every packet. It changes with any change that an
	// old client or holder would misunderstand. 2: restore, numbered leases, and
	// loop devices over names of their own.
	protocolVersion = 2
	// maxPacketBytes bounds one packet; a List of MaxVolumes fits.
	maxPacketBytes = 128 << 10
	// MaxVolumes is how many volumes one holder keeps.
	MaxVolumes = 256
)

type operation string

const (
	opAttach     operation = "attach"
	opRestore    operation = "restore"
	opAttachLoop operation = "attach-loop"
	opRelease    operation = "release"
	opResize     operation = "resize"
	opDetach     operation = "detach"
	opWithdraw   operation = "withdraw"
	opTrouble    operation = "trouble"
	opList       operation = "list"
	opShutdown   operation = "shutdown"
)

// request is a packet to the holder.
type request struct {
	Version       int       `json:"v"`
	ID            uint64    `json:"id"`
	Op            operation `json:"op"`
	TimeoutMillis int64     `json:"timeoutMillis,omitempty"` // 0: the holder's own limit
	Volume        string    `json:"volume,omitempty"`
	BlockBytes    int       `json:"blockBytes,omitempty"`
	ReadOnly      bool      `json:"readOnly,omitempty"`
	Force         bool      `json:"force,omitempty"`
	Look          bool      `json:"look,omitempty"` // of a withdraw: only whether it could be done
	Text          string    `json:"text,omitempty"` // of a trouble: what it is
	// Transport is what an attach wishes for; empty: as the holder is set up. Ring
	// tells that the engine's process can serve over io_uring. A holder that does
	// not know these fields mounts over /dev/fuse, and for an engine that does not
	// send them one does.
	Transport fuse.Transport `json:"transport,omitempty"`
	Ring      bool           `json:"ring,omitempty"`
	// Known is of an attach: the identity of the device that the volume had last; empty:
	// none may be taken over; nil: that is not known. A holder that does not know the
	// field hands out what it has.
	Known *string `json:"known,omitempty"`
	// Init and Lease are what the attach was answered, for restore. The
	// descriptor comes with the packet.
	Init  *fuse.InitState `json:"init,omitempty"`
	Lease uint64          `json:"lease,omitempty"`
}

// reply is a packet from the holder.
type reply struct {
	Version   int             `json:"v"`
	ID        uint64          `json:"id"`
	Error     *wireError      `json:"error,omitempty"`
	Init      *fuse.InitState `json:"init,omitempty"`
	Takeover  bool            `json:"takeover,omitempty"`
	Lease     uint64          `json:"lease,omitempty"`
	Device    string          `json:"device,omitempty"`
	Identity  string          `json:"identity,omitempty"` // of the mount that was attached; empty: it has none
	SizeBytes int64           `json:"sizeBytes,omitempty"`
	// Wanted is the transport that a new mount was to have; Init tells what it has.
	Wanted  fuse.Transport `json:"wanted,omitempty"`
	Volumes []Volume       `json:"volumes,omitempty"`
}

// Volume describes one volume that a holder keeps.
type Volume struct {
	ID         string `json:"id"`
	BlockBytes int    `json:"blockBytes"` // logical block size of its device
	ReadOnly   bool   `json:"readOnly,omitempty"`
	Leased     bool   `json:"leased,omitempty"` // an engine holds its descriptor now
	Device     string `json:"device,omitempty"` // /dev/loopN once attached
	// Transport is how the present mount's requests come; empty without one.
	Transport fuse.Transport `json:"transport,omitempty"`
	// Away: an earlier holder attached it, and its engine has not brought the
	// descriptor back, or is just doing so (and Leased). While that engine lives the device works; without it the
	// device fails every request until the volume is attached again.
	Away bool `json:"away,omitempty"`
	// Identity is that of its mount (Keeper.Identity); empty: it has none, or the holder
	// is of a version that does not tell.
	Identity string `json:"identity,omitempty"`
	// Attachment is what Attest was told; only in the holder's own process.
	Attachment string `json:"-"`
}

// volumeID is what becomes a directory name: no separators, no dot in front.
var volumeID = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

// decodeRequest parses a packet and checks what does not depend on the
// holder's state. With an error the returned request has the id to answer.
func decodeRequest(packet []byte) (request, error) {
	var r request
	if err := json.Unmarshal(packet, &r); err != nil {
		return request{}, fmt.Errorf("%w: parse request: %w", ErrInvalid, err)
	}
	if r.Version != protocolVersion {
		return r, fmt.Errorf("%w: %d, this is %d", ErrVersion, r.Version, protocolVersion)
	}
	if r.TimeoutMillis < 0 {
		return r, fmt.Errorf("%w: timeout of %d ms", ErrInvalid, r.TimeoutMillis)
	}
	switch r.Op {
	case opList, opShutdown:
		return r, nil
	case opAttach, opRestore:
		if b := r.BlockBytes; b < 512 || b > 4096 || b&(b-1) != 0 {
			return r, fmt.Errorf("%w: block size %d", ErrInvalid, b)
		}
		if _, err := fuse.ParseTransport(string(r.Transport)); err != nil {
			return r, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if r.Op == opRestore && (r.Init == nil || r.Lease == 0) {
			return r, fmt.Errorf("%w: restore without the answer to an attach", ErrInvalid)
		}
	case opAttachLoop, opRelease, opResize, opDetach, opWithdraw, opTrouble:
	default:
		return r, fmt.Errorf("%w: unknown operation %q", ErrInvalid, r.Op)
	}
	if !volumeID.MatchString(r.Volume) {
		return r, fmt.Errorf("%w: volume id %q", ErrInvalid, r.Volume)
	}
	return r, nil
}
