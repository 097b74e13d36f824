package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

// soakPins is how many snapshots are kept when another is taken: what they
// keep of the journal is all that is written meanwhile.
const soakPins = 1

type soakSnapshot struct {
	id     string
	volume int
}

func (s *soak) takeSnapshot(ctx context.Context) {
	s.t.Helper()
	s.deleteSnapshots(ctx, soakPins)
	volume := s.cycle % soakVolumes
	snapshot := must(s.pair.A.Snapshot(ctx, s.volumes[volume], fmt.Sprintf("soak-%d", s.cycle), nil))(s.t)
	s.snapshots = append(s.snapshots, soakSnapshot{snapshot.SnapshotId, volume})
	s.did["snapshot"]++
}

// deleteSnapshots keeps the newest.
func (s *soak) deleteSnapshots(ctx context.Context, keep int) {
	s.t.Helper()
	for len(s.snapshots) > keep {
		_ = must(csi.NewControllerClient(s.pair.A.CSI).DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: s.snapshots[0].id}))(s.t)
		s.snapshots = s.snapshots[1:]
	}
}

// verify opens the newest point of all sites, the replica's after it has
// become level, and one in the middle of what there is.
func (s *soak) verify(ctx context.Context) {
	s.t.Helper()
	now := time.Now()
	for _, site := range s.sites() {
		s.verifyOn(ctx, site, s.chains, len(s.volumes), now)
	}
	s.verifyOn(ctx, s.thinned.site, s.thinned.chains, len(s.thinned.chains.volumes), now)
	s.did["verify"]++
}

func (s *soak) verifyOn(ctx context.Context, site *harness.Site, c *chains, members int, now time.Time) {
	s.t.Helper()
	check(s.t, c.err())
	check(s.t, site.AwaitPoint(ctx, groupName, now))
	chainsAt(ctx, s.t, c, site, "latest")
	points := must(site.Points(ctx, groupName))(s.t)
	middle := points[len(points)/2]
	if int(middle.GetMembers()) == members && !s.verifyPast(ctx, site, c, middle.GetCheckpoint()) && site == s.thinned.site {
		s.t.Errorf("point %d was listed and could not be opened a moment later", middle.GetCheckpoint())
	}
}

// verifyPast checks a point that may leave the window just then; false if it has. One
// that is listed yet has to open.
func (s *soak) verifyPast(ctx context.Context, site *harness.Site, c *chains, checkpoint uint64) bool {
	s.t.Helper()
	view, err := site.OpenView(ctx, groupName, fmt.Sprint(checkpoint))
	if err != nil {
		for _, p := range must(site.Points(ctx, groupName))(s.t) {
			if p.GetCheckpoint() == checkpoint {
				s.t.Fatal(err)
			}
		}
		return false
	}
	_, err = c.verify(view)
	check(s.t, errors.Join(err, view.Close(ctx)))
	return true
}

// clone makes a volume from the newest snapshot, reads it, and deletes it.
func (s *soak) clone(ctx context.Context) {
	s.t.Helper()
	snapshot := s.snapshots[len(s.snapshots)-1]
	v := must(s.pair.A.CreateVolume(ctx, harness.VolumeSpec{
		Name: fmt.Sprintf("clone-%d", s.cycle), SizeBytes: soakBytes, Snapshot: snapshot.id, Parameters: map[string]string{"group": "clones"},
	}))(s.t)
	check(s.t, s.pair.A.Publish(ctx, v))
	f := must(os.Open(v.Target))(s.t)
	head := make([]byte, chainOffset(soakChains, 0))
	_ = must(f.ReadAt(head, 0))(s.t)
	check(s.t, f.Close())
	check(s.t, s.chains.verifyVolume(head, snapshot.volume))
	check(s.t, s.pair.A.Unpublish(ctx, v, true))
	_ = must(csi.NewControllerClient(s.pair.A.CSI).DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.ID}))(s.t)
	s.did["clone"]++
}

// rewind goes back to a point, in every second one for good.
func (s *soak) rewind(ctx context.Context) {
	s.t.Helper()
	s.rest()
	at := takePoint(ctx, s.t, s.pair.A)
	there := chainsAt(ctx, s.t, s.chains, s.pair.A, at)
	s.chains.start(s.t)
	settle(time.Second)
	s.chains.stop()
	check(s.t, s.chains.err())
	now := chainsAt(ctx, s.t, s.chains, s.pair.A, takePoint(ctx, s.t, s.pair.A))

	lockstep(ctx, s.t, s.env, s.pair.A, "rewind", "start", groupName, "--at", at)
	want := there
	if s.did["rewind"]%2 == 0 {
		lockstep(ctx, s.t, s.env, s.pair.A, "rewind", "commit", groupName, "--yes")
	} else {
		lockstep(ctx, s.t, s.env, s.pair.A, "rewind", "undo", groupName)
		want = now
	}
	s.chains.resume(want, s.chains.volumes)
	got := chainsAt(ctx, s.t, s.chains, s.pair.A, takePoint(ctx, s.t, s.pair.A))
	if fmt.Sprint(got) != fmt.Sprint(want) {
		s.t.Fatalf("after the rewind the chains have %v blocks, want %v", got, want)
	}
	s.load()
	s.did["rewind"]++
}

// kill kills the sites in turn, and waits until the replica is level again.
func (s *soak) kill(ctx context.Context) {
	s.t.Helper()
	site := s.sites()[s.kills%2]
	s.kills++
	check(s.t, site.Stop(syscall.SIGKILL))
	settle(200 * time.Millisecond)
	check(s.t, site.Start(ctx))
	now := time.Now()
	for _, site := range s.sites() {
		check(s.t, site.AwaitPoint(ctx, groupName, now))
	}
}

// awaitDestage waits until the journals have no more than their budget and the
// segments that are not full or not yet free.
func (s *soak) awaitDestage(ctx context.Context, site *harness.Site, budget int64) {
	s.t.Helper()
	check(s.t, harness.Until(ctx, 200*time.Millisecond, func() error {
		status, err := site.Admin.GetStatus(ctx, &adminv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		for _, v := range status.GetVolumes() {
			if v.GetJournalBytes() > budget+soakSegments {
				return fmt.Errorf("volume %s on site %s has %d bytes in its journal yet", v.GetId(), site.Config.Name, v.GetJournalBytes())
			}
		}
		return nil
	}))
}

// holderOf finds the process that holds a site's devices; 0 if there is none.
func holderOf(site *harness.Site) int {
	return processWith(filepath.Join(site.Config.Root, "holder.sock"))
}
