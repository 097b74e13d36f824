package control

import (
	"context"
	"errors"
	"net"
	"reflect"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	enginev1 "github.com/lockstep-csi/lockstep/api/engine/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

func TestTimelinesTravel(t *testing.T) {
	when := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	want := Timelines{Horizon: journal.Position{Timeline: 1, Seq: 7}, Uses: []journal.TimelineUse{
		{Timeline: journal.Timeline{ID: 1, Created: when, Reason: "created"}, Last: 900, Bytes: 1 << 30, Leads: true, Pins: []string{"a", "b"}, Views: 2},
		{Timeline: journal.Timeline{ID: 1 << 63, Parent: journal.Position{Timeline: 1, Seq: 800}, Created: when.Add(time.Hour), Reason: "rewind"}, Last: 801, Active: true},
	}}
	if got := decodeTimelineUses(encodeTimelineUses(want)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// serveOld serves an engine of an earlier version until the test ends.
func serveOld(t *testing.T, old enginev1.EngineServer) *Client {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	enginev1.RegisterEngineServer(server, old)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:old", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Stop()
		if err := errors.Join(<-served, conn.Close()); err != nil {
			t.Error(err)
		}
	})
	return NewClient(journal.VolumeID{1}, conn)
}

// TestAnOldEngineTellsOfNoTimelines: it is known by the error, not taken for one that
// has none.
func TestAnOldEngineTellsOfNoTimelines(t *testing.T) {
	if got, err := serveOld(t, &oldEngine{}).Timelines(t.Context()); !errors.Is(err, ErrOutdated) {
		t.Errorf("got %+v, %v, want ErrOutdated", got, err)
	}
}
