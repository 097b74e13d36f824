package gateway

import (
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// frame is one encoded message on its way. It holds one reference to its
// bytes, which sending it gives up.
type frame struct{ data mem.BufferSlice }

// frames is the encoding of a gateway: none. Its name is that of the messages'
// real encoding, which is what travels in a call's content type.
type frames struct{}

// Marshal implements encoding.CodecV2; grpc frees what it returns once it is
// sent.
func (frames) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("pass on a %T: not a frame", v)
	}
	data := f.data
	f.data = nil
	return data, nil
}

// Unmarshal implements encoding.CodecV2; grpc frees data when it returns.
func (frames) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("take a %T: not a frame", v)
	}
	data.Ref()
	f.data = data
	return nil
}

// Name implements encoding.CodecV2.
func (frames) Name() string { return "proto" }

// opening reads the volume that a stream's first message names, and leaves the
// frame as it is.
func (f *frame) opening() (journal.VolumeID, error) {
	m := new(replicationv1.SourceMessage)
	if err := proto.Unmarshal(f.data.Materialize(), m); err != nil {
		return journal.VolumeID{}, fmt.Errorf("decode first message: %v: %w", err, replication.ErrProtocol)
	}
	return replication.OpeningVolume(m)
}
