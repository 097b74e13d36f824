package adminserver

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/journal"
)

// claimed is a site whose volumes are for claims.
type claimed struct {
	Site
	volumes []Volume
}

func (c claimed) Volumes() []Volume { return c.volumes }

// TestAVolumeIsNamed by its id, its name or its claim. A volume that was deleted and is
// kept for its snapshots is not what its claim's name means any more.
func TestAVolumeIsNamed(t *testing.T) {
	id := func(n byte) journal.VolumeID { return journal.VolumeID{n} }
	s := &Server{cfg: Config{Site: claimed{volumes: []Volume{
		{ID: id(1), Name: "pvc-1", Claim: "prod/data", Retired: true}, {ID: id(2), Name: "pvc-2", Claim: "prod/data"},
		{ID: id(3), Name: "pvc-3"}, {ID: id(4), Name: "pvc-4"},
		{ID: id(5), Name: "twin", Claim: "prod/twin"}, {ID: id(6), Name: "twin", Claim: "prod/twin"},
	}}}}
	for text, want := range map[string]journal.VolumeID{
		id(1).String(): id(1), "pvc-1": id(1), "prod/data": id(2), "pvc-2": id(2), id(3).String(): id(3),
	} {
		if got, err := s.oneVolume(text); err != nil || got != want {
			t.Errorf("%q: got %s, %v, want %s", text, got, err, want)
		}
	}
	for text, want := range map[string]codes.Code{"": codes.NotFound, "data": codes.NotFound, "twin": codes.InvalidArgument, "prod/twin": codes.InvalidArgument} {
		for _, command := range []string{"", "kubectl lockstep"} { // that its users have
			s.cfg.Command = command
			got, err := s.oneVolume(text)
			if hint := "`" + cmp.Or(command, "lockstep") + " status -o wide`"; status.Code(err) != want || !strings.Contains(err.Error(), hint) {
				t.Errorf("%q: got %s, %v, want %s that names %s", text, got, err, want, hint)
			}
		}
	}
}

// TestWhyAVolumeIsNotScrubbed: what the caller can do about it depends on the code.
func TestWhyAVolumeIsNotScrubbed(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want codes.Code
	}{{ErrNoScrub, codes.FailedPrecondition}, {ErrScrubEnded, codes.Aborted}} {
		// Beside what a call says that was cut off, or waited in vain.
		err := answer(fmt.Errorf("%w: %w", tt.err, context.DeadlineExceeded))
		if status.Code(err) != tt.want {
			t.Errorf("%v: %v, want %s", tt.err, err, tt.want)
		}
	}
}
