package gateway

import (
	"errors"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// FuzzOpening: a gateway reads the volume of whatever comes, or refuses it.
func FuzzOpening(f *testing.F) {
	volume := journal.VolumeID{1}
	for _, m := range []proto.Message{
		&replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Hello{Hello: &replicationv1.Hello{Volume: volume[:]}}},
		&replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Batch{Batch: &replicationv1.Batch{Number: 1}}},
		&replicationv1.RepairRequest{Volume: volume[:]},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for what, read := range map[string]func() (journal.VolumeID, error){
			"stream": (&frame{data: mem.BufferSlice{mem.SliceBuffer(b)}}).opening,
			"repair": func() (journal.VolumeID, error) { return replication.RepairVolume(b) },
		} {
			if _, err := read(); err != nil && !errors.Is(err, replication.ErrProtocol) {
				t.Fatalf("%s: error of no kind: %v", what, err)
			}
		}
	})
}
