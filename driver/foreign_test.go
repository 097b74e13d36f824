package driver

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

const testVolumeBytes = 8 << 20

// devices are the live volumes that a site shows, by id.
type devices map[string]engine.Device

func (d devices) Add(name string, dev engine.Device, _ string) error {
	d[name] = dev
	return nil
}

func (d devices) Remove(_ context.Context, name string) error {
	delete(d, name)
	return nil
}

func (d devices) Clients(string) int { return 0 }

// csiSite is a site with what CSI knows of it.
type csiSite struct {
	*standalone
	t       *testing.T
	devices devices
}

func newCSISite(t *testing.T) *csiSite {
	t.Helper()
	s := &csiSite{standalone: &standalone{}, t: t, devices: devices{}}
	var err error
	s.site, err = site.Open(context.Background(), site.Config{Name: "a", Root: "/root", FS: vfs.NewMem(), Exports: s.devices, SegmentBytes: journal.MinSegmentBytes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.controller.Close()
		if err := s.site.Close(); err != nil {
			t.Error(err)
		}
	})
	s.forgetAll()
	return s
}

// forgetAll replaces what CSI knows by nothing: as where volumes have come from
// another site, or the catalog was lost.
func (s *csiSite) forgetAll() {
	s.t.Helper()
	if s.controller != nil {
		s.controller.Close()
	}
	s.catalog = kv.NewMemory()
	b := &backend{site: s.site, fs: vfs.NewMem(), root: "/root", node: "n"}
	nodes, err := controller.OneNode("n")
	if err == nil {
		s.controller, err = controller.New(controllerConfig(catalog.New(s.catalog), b, nodes, slog.New(slog.DiscardHandler)))
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *csiSite) create(name, group string, sizeBytes int64) (journal.VolumeID, error) {
	s.t.Helper()
	parameters := map[string]string{"group": group, "checkpointInterval": "1h"}
	response, err := s.controller.CreateVolume(context.Background(), &csi.CreateVolumeRequest{
		Name: name, Parameters: parameters, CapacityRange: &csi.CapacityRange{RequiredBytes: sizeBytes},
		VolumeCapabilities: []*csi.VolumeCapability{{
			AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		}},
	})
	if err != nil {
		return journal.VolumeID{}, err
	}
	id, err := journal.ParseVolumeID(response.GetVolume().GetVolumeId())
	if err != nil {
		s.t.Fatal(err)
	}
	return id, nil
}

func (s *csiSite) mustCreate(name, group string) journal.VolumeID {
	s.t.Helper()
	id, err := s.create(name, group, testVolumeBytes)
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

func (s *csiSite) write(id journal.VolumeID, value byte) {
	s.t.Helper()
	if err := s.devices[id.String()].WriteAt(context.Background(), bytes.Repeat([]byte{value}, 512), 0, true); err != nil {
		s.t.Fatal(err)
	}
}

func (s *csiSite) expect(id journal.VolumeID, want byte) {
	s.t.Helper()
	dev := s.devices[id.String()]
	if dev == nil {
		s.t.Fatalf("volume %s is gone", id)
	}
	p := make([]byte, 512)
	if err := dev.ReadAt(context.Background(), p, 0); err != nil {
		s.t.Fatal(err)
	}
	if p[0] != want {
		s.t.Errorf("volume %s holds %d, want %d", id, p[0], want)
	}
}

// follow has the site hear from a primary of the group shop, which has these members.
func (s *csiSite) follow(term group.Term, members ...journal.VolumeID) {
	s.t.Helper()
	a := replication.Announcement{Group: "shop", Term: term, Settings: group.Settings{CheckpointInterval: time.Hour}}
	for _, id := range members {
		a.Members = append(a.Members, replication.Member{Volume: id, Name: "of shop", SizeBytes: testVolumeBytes})
	}
	if err := s.site.Groups().Standings().Follow(context.Background(), "b", a); err != nil {
		s.t.Fatal(err)
	}
}

// What a primary has deleted stays at its replica until a person removes it, also
// where a volume of that name is made, or is not made because that cannot be. The new
// one is another volume.
func TestCreatingAVolumeLeavesADeletedReplicaOfItsName(t *testing.T) {
	s := newCSISite(t)
	data, db := s.mustCreate("data", "shop"), s.mustCreate("db", "shop")
	s.write(data, 7)
	s.follow(2, db) // the primary has deleted data
	s.forgetAll()

	if _, err := s.create("data", "shop", testVolumeBytes); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a volume in a group that another site is primary of: %v", err)
	}
	s.expect(data, 7)
	made := s.mustCreate("data", "local")
	if made == data {
		t.Fatal("a new volume is the replica of one that was deleted")
	}
	s.expect(made, 0)
	s.expect(data, 7)
}

// A volume that CSI does not know, and the site serves, is not taken by a creation, nor
// removed when that fails.
func TestCreatingAVolumeLeavesOneThatTheSiteHas(t *testing.T) {
	s := newCSISite(t)
	data := s.mustCreate("data", "shop")
	s.write(data, 7)
	s.forgetAll()

	for _, group := range []string{"local", "shop"} {
		for _, size := range []int64{testVolumeBytes, 2 * testVolumeBytes} {
			if _, err := s.create("data", group, size); status.Code(err) != codes.AlreadyExists {
				t.Errorf("creating data of %d bytes in group %s: %v, want AlreadyExists", size, group, err)
			}
			s.expect(data, 7)
		}
	}
	s.follow(2, data)
	if _, err := s.create("data", "local", testVolumeBytes); status.Code(err) != codes.AlreadyExists {
		t.Errorf("creating a volume of the name of a replica: %v, want AlreadyExists", err)
	}
	s.expect(data, 7)
}

// A failover may be interrupted before CSI knows of it, and cannot be repeated: the site
// is the primary. Its next start completes it.
func TestTheNextStartMakesKnownWhatAFailoverDidNot(t *testing.T) {
	s := newCSISite(t)
	data := s.mustCreate("data", "shop")
	s.write(data, 7)
	s.forgetAll()
	if err := s.adoptUnknown(context.Background()); err != nil {
		t.Fatal(err)
	}
	listed, err := s.controller.ListVolumes(context.Background(), &csi.ListVolumesRequest{})
	if err != nil || len(listed.GetEntries()) != 1 || listed.GetEntries()[0].GetVolume().GetVolumeId() != data.String() {
		t.Fatalf("CSI knows %v, %v; want %s", listed, err, data)
	}
	s.expect(data, 7)
	// What CSI knows stays as it is, and what another site is the primary of is not its.
	db := s.mustCreate("db", "own")
	s.follow(2, data)
	s.forgetAll()
	if err := s.adoptUnknown(context.Background()); err != nil {
		t.Fatal(err)
	}
	listed, err = s.controller.ListVolumes(context.Background(), &csi.ListVolumesRequest{})
	if err != nil || len(listed.GetEntries()) != 1 || listed.GetEntries()[0].GetVolume().GetVolumeId() != db.String() {
		t.Errorf("CSI knows %v, %v; want %s", listed, err, db)
	}
}

// A failover that could not be finished at once is finished when its group is started again, by
// nobody who would tell CSI.
func TestCSIIsToldOfAFailoverThatIsFinishedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCSISite(t)
		data := s.mustCreate("data", "shop")
		if _, _, err := s.site.Groups().TakePoint(t.Context(), "shop", ""); err != nil {
			t.Fatal(err)
		}
		s.follow(2, data)
		s.forgetAll()
		ctx, stop := context.WithCancel(t.Context())
		var telling sync.WaitGroup
		telling.Go(func() { s.tellCSI(ctx) })
		if _, err := s.site.Groups().Failover(ctx, "shop", "latest", false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(tellPause)
		synctest.Wait()
		listed, err := s.controller.ListVolumes(ctx, &csi.ListVolumesRequest{})
		if err != nil || len(listed.GetEntries()) != 1 || listed.GetEntries()[0].GetVolume().GetVolumeId() != data.String() {
			t.Errorf("CSI knows %v, %v; want %s", listed, err, data)
		}
		stop()
		telling.Wait()
	})
}

// A member of which nothing had arrived when this site became the primary cannot be
// published, so that CSI is not told of it, neither then nor at the next start.
func TestAFailoverMakesNoAbsentVolumeKnown(t *testing.T) {
	ctx := context.Background()
	s := newCSISite(t)
	data, ghost := s.mustCreate("data", "shop"), journal.VolumeID{9}
	if _, _, err := s.site.Groups().TakePoint(ctx, "shop", ""); err != nil {
		t.Fatal(err)
	}
	s.follow(2, data, ghost)
	if _, err := s.site.Groups().Failover(ctx, "shop", "latest", false); err != nil {
		t.Fatal(err)
	}
	for _, makeKnown := range []func() error{func() error { return s.adopt(ctx, "shop") }, func() error { return s.adoptUnknown(ctx) }} {
		s.forgetAll()
		if err := makeKnown(); err != nil {
			t.Fatal(err)
		}
		listed, err := s.controller.ListVolumes(ctx, &csi.ListVolumesRequest{})
		if err != nil || len(listed.GetEntries()) != 1 || listed.GetEntries()[0].GetVolume().GetVolumeId() != data.String() {
			t.Errorf("CSI knows %v, %v; want %s", listed, err, data)
		}
	}
	if v, err := s.site.Volume(ghost); err != nil || v.Err != nil || v.DeviceErr == nil {
		t.Errorf("the absent volume: %+v, %v: want one that is well and has no device, so that nobody waits for it", v, err)
	}
}
