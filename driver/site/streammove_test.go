package site_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// entrance is a site's replication service, and the peer's connection to it.
func entrance(t *testing.T, s *opened) (*replication.Server, replicationv1.ReplicationClient) {
	t.Helper()
	server, err := replication.NewServer(replication.ServerConfig{
		Site: "a", Groups: s.Groups().Standings(), Stores: s.Replicas(), Peer: func(context.Context) (string, error) { return "b", nil }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	l, g := bufconn.Listen(1<<20), grpc.NewServer()
	server.Register(g)
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(l) })
	conn, err := grpc.NewClient("passthrough:site", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.Stop()
		serving.Wait()
		if err := errors.Join(conn.Close(), server.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	})
	return server, replicationv1.NewReplicationClient(conn)
}

// sendHalf sends an image of a member of the group shop, whose first sector is 9, all but its end.
func sendHalf(ctx context.Context, t *testing.T, peer replicationv1.ReplicationClient) replicationv1.Replication_ReplicateClient {
	t.Helper()
	stream, err := peer.Replicate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	line := &replicationv1.Timeline{Id: 99, Reason: "created"}
	sector := bytes.Repeat([]byte{9}, 512)
	for number, m := range []*replicationv1.SourceMessage{
		{Message: &replicationv1.SourceMessage_Hello{Hello: &replicationv1.Hello{Version: replication.ProtocolVersion, Group: "shop", Term: 2, Volume: volumeA[:],
			SizeBytes: volumeBytes, Path: []*replicationv1.Run{{Timeline: 99, First: 8, Last: 7}}, Timelines: []*replicationv1.Timeline{line}}}},
		{Message: &replicationv1.SourceMessage_ImageStart{ImageStart: &replicationv1.ImageStart{Number: 1, SizeBytes: volumeBytes,
			At: &replicationv1.Position{Timeline: 99, Seq: 7}, Timelines: []*replicationv1.Timeline{line}}}},
		{Message: &replicationv1.SourceMessage_Chunk{Chunk: &replicationv1.Chunk{Number: 2, RawBytes: 512, Data: sector, Crc: journal.PayloadChecksum(sector)}}},
	} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatalf("message %d: %v", number, err)
		}
	}
	return stream
}

// TestAVolumeThatMovedTakesNothingFromItsOldGroup: a peer that is a cluster moves a volume
// to another group while it sends an image of it. The stream of the old group, which may be
// the other end of a connection that has died unnoticed, puts no image in the volume's place
// once the new group is fenced, as for a failover.
func TestAVolumeThatMovedTakesNothingFromItsOldGroup(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s := prepared(t, vfs.NewMem())
	demoted(t, s)
	server, peer := entrance(t, s)
	stream := sendHalf(ctx, t, peer)
	_, err := peer.Announce(ctx, &replicationv1.AnnounceRequest{Version: replication.ProtocolVersion, Group: "warehouse", Term: 2,
		Members: []*replicationv1.Member{{Volume: volumeA[:], Name: "a", SizeBytes: volumeBytes}}})
	if err != nil {
		t.Fatal(err)
	}
	release, err := server.Fence(ctx, "warehouse")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	_ = stream.Send(&replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_ImageEnd{ImageEnd: &replicationv1.ImageEnd{Number: 3}}})
	if m, err := stream.Recv(); err == nil {
		t.Errorf("the stream of the group that the volume has left goes on: %v", m)
	}
	if got := s.content(t, volumeA); got != 2 {
		t.Errorf("the fenced volume holds %d, want 2: an image has taken its place", got)
	}
}

// TestWhatComesOfADeletedVolumeEnds: the peer deletes a volume while it sends an image of it.
// Nothing is left of that, and its room is free.
func TestWhatComesOfADeletedVolumeEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	demoted(t, s)
	_, peer := entrance(t, s)
	stream := sendHalf(ctx, t, peer)
	_, err := peer.Announce(ctx, &replicationv1.AnnounceRequest{Version: replication.ProtocolVersion, Group: "shop", Term: 2,
		Members: []*replicationv1.Member{{Volume: volumeB[:], Name: "b", SizeBytes: volumeBytes}}, Deleted: [][]byte{volumeA[:]}})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); status.Code(err) != codes.NotFound {
		t.Errorf("the stream of the deleted volume goes on: %v, %v", m, err)
	}
	if left := below(fs, "/root/volumes/"+volumeA.String()+"/store-2"); left != "" && left != "lock" {
		t.Errorf("of the image there is left: %s", left)
	}
	if got := s.content(t, volumeA); got != 2 {
		t.Errorf("what the replica had of the volume is %d, want 2", got)
	}
}

// TestAReopenKeepsImages: a volume of a replica is opened again while another member of its
// group is sent an image, which goes on where it was.
func TestAReopenKeepsImages(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	fs := vfs.NewMem()
	s := prepared(t, fs)
	demoted(t, s)
	mustClose(t, s)
	base := "/root/volumes/" + volumeB.String() + "/store-1/base.img"
	if err := fs.Rename(base, base+".away"); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, fs)
	server, peer := entrance(t, s)
	s.Groups().SetFencer(groups.OneProcess(server))
	stream := sendHalf(ctx, t, peer)
	if err := fs.Rename(base+".away", base); err != nil {
		t.Fatal(err)
	}
	if done, err := s.ReopenVolume(ctx, volumeB); !done || err != nil {
		t.Fatalf("reopen: %v, %v", done, err)
	}
	if m, err := stream.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("the stream goes on while a store is closed and opened: %v, %v", m, err)
	}
	stream, err := peer.Replicate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	line := &replicationv1.Timeline{Id: 99, Reason: "created"}
	for number, m := range []*replicationv1.SourceMessage{
		{Message: &replicationv1.SourceMessage_Hello{Hello: &replicationv1.Hello{Version: replication.ProtocolVersion, Group: "shop", Term: 2, Volume: volumeA[:],
			SizeBytes: volumeBytes, Path: []*replicationv1.Run{{Timeline: 99, First: 8, Last: 7}}, Timelines: []*replicationv1.Timeline{line}}}},
		{Message: &replicationv1.SourceMessage_ImageStart{ImageStart: &replicationv1.ImageStart{Number: 1, SizeBytes: volumeBytes, FromOffset: 512,
			At: &replicationv1.Position{Timeline: 99, Seq: 7}, Timelines: []*replicationv1.Timeline{line}}}},
		{Message: &replicationv1.SourceMessage_ImageEnd{ImageEnd: &replicationv1.ImageEnd{Number: 2}}},
	} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatalf("message %d: %v", number, err)
		}
		if next := answer.GetWelcome().GetPartial().GetNextOffset(); number == 0 && next != 512 {
			t.Errorf("the image is offered to go on from %d, want 512", next)
		}
	}
	if got := s.content(t, volumeA); got != 9 {
		t.Errorf("the volume holds %d, want the image's 9", got)
	}
	if got := s.content(t, volumeB); got != 2 {
		t.Errorf("the volume that was opened again holds %d, want 2", got)
	}
}
