package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

// Admin is a controller's admin API, reached as kubectl lockstep does: through
// a forwarded port. Its calls may be made concurrently.
type Admin struct {
	adminv1.AdminClient

	ports cluster.Forwarder
}

// Admin connects to the controller of a cluster until the test ends. The
// connection is opened by the first call, and again after it broke.
func (c *Cluster) Admin(t testing.TB) *Admin {
	t.Helper()
	way, err := cluster.New(c.Config, SystemNamespace, SystemNamespace)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///controller", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return way.DialAdmin(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("close the connection to the controller: %v", err)
		}
	})
	return &Admin{adminv1.NewAdminClient(conn), way.Ports}
}

// Points returns a group's recovery points, oldest first.
func (a *Admin) Points(ctx context.Context, group string) ([]*adminv1.Point, error) {
	const most = 10000
	answer, err := a.ListPoints(ctx, &adminv1.ListPointsRequest{Group: group, Limit: most})
	if err != nil {
		return nil, fmt.Errorf("list points of %s: %w", group, err)
	}
	if answer.GetTotal() > most {
		return nil, fmt.Errorf("group %s has %d points, too many to look at all", group, answer.GetTotal())
	}
	points := answer.GetPoints()
	for i, j := 0, len(points)-1; i < j; i, j = i+1, j-1 {
		points[i], points[j] = points[j], points[i]
	}
	return points, nil
}

// ReadPoint returns what each member of a group holds at a recovery point, in
// its first n bytes, by volume. Nothing is copied or restored for it.
func (a *Admin) ReadPoint(ctx context.Context, group string, checkpoint uint64, n int) (contents map[string][]byte, err error) {
	answer, err := a.OpenView(ctx, &adminv1.OpenViewRequest{Group: group, At: fmt.Sprint(checkpoint)})
	if err != nil {
		return nil, fmt.Errorf("open point %d of %s: %w", checkpoint, group, err)
	}
	defer func() {
		_, closing := a.CloseView(ctx, &adminv1.CloseViewRequest{Id: answer.GetView().GetId()})
		err = errors.Join(err, closing)
	}()
	contents = map[string][]byte{}
	for _, export := range answer.GetView().GetExports() {
		if contents[export.GetVolumeId()], err = a.readExport(ctx, export, n); err != nil {
			return nil, fmt.Errorf("read volume %s at point %d: %w", export.GetVolumeId(), checkpoint, err)
		}
	}
	return contents, nil
}

func (a *Admin) readExport(ctx context.Context, export *adminv1.ViewExport, n int) (content []byte, err error) {
	at, err := url.Parse(export.GetNbdUri())
	if err != nil {
		return nil, err
	}
	conn, err := a.ports.DialPod(ctx, SystemNamespace, kubenames.Engine(export.GetVolumeId()), cluster.NBDPort)
	if err != nil {
		return nil, err
	}
	image, err := harness.OpenNBD(conn, strings.TrimPrefix(at.Path, "/"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	content = make([]byte, n)
	_, err = image.ReadAt(content, 0)
	return content, err
}
