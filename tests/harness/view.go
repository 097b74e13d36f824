package harness

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// View is a recovery point of a group that is open for reading.
type View struct {
	Point   *adminv1.Point
	Exports map[string]*adminv1.ViewExport // by volume id

	site *Site
	id   string
}

// OpenView opens a recovery point; at as for the CLI. The caller closes it.
func (s *Site) OpenView(ctx context.Context, group, at string) (*View, error) {
	resp, err := s.Admin.OpenView(ctx, &adminv1.OpenViewRequest{Group: group, At: at})
	if err != nil {
		return nil, fmt.Errorf("open view of %s at %s on site %s: %w", group, at, s.Config.Name, err)
	}
	v := &View{Point: resp.GetView().GetPoint(), Exports: map[string]*adminv1.ViewExport{}, site: s, id: resp.GetView().GetId()}
	for _, e := range resp.GetView().GetExports() {
		v.Exports[e.GetVolumeId()] = e
	}
	return v, nil
}

// Close closes the view.
func (v *View) Close(ctx context.Context) error {
	_, err := v.site.Admin.CloseView(ctx, &adminv1.CloseViewRequest{Id: v.id})
	return err
}

// Read fills p with what a volume holds at off.
func (v *View) Read(volume string, p []byte, off int64) (err error) {
	export, ok := v.Exports[volume]
	if !ok {
		return fmt.Errorf("view %s has no volume %s", v.id, volume)
	}
	c, err := DialNBD(export.GetNbdUri())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	_, err = c.ReadAt(p, off)
	return err
}

// Digest is the SHA-256 of a volume's whole content.
func (v *View) Digest(volume string) (digest string, err error) {
	c, err := DialNBD(v.Exports[volume].GetNbdUri())
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{io.NewSectionReader(c, 0, c.SizeBytes)}, make([]byte, 1<<20)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Group describes a group of the site.
func (s *Site) Group(ctx context.Context, name string) (*adminv1.Group, error) {
	resp, err := s.Admin.DescribeGroup(ctx, &adminv1.DescribeGroupRequest{Group: name})
	if err != nil {
		return nil, fmt.Errorf("describe group %s on site %s: %w", name, s.Config.Name, err)
	}
	return resp.GetGroup(), nil
}

// Points lists a group's recovery points, oldest first, at most 10,000.
func (s *Site) Points(ctx context.Context, group string) ([]*adminv1.Point, error) {
	resp, err := s.Admin.ListPoints(ctx, &adminv1.ListPointsRequest{Group: group, Limit: 10000})
	if err != nil {
		return nil, fmt.Errorf("list points of %s on site %s: %w", group, s.Config.Name, err)
	}
	points := resp.GetPoints()
	for i, j := 0, len(points)-1; i < j; i, j = i+1, j-1 {
		points[i], points[j] = points[j], points[i]
	}
	return points, nil
}

// AwaitPoint waits until a group can be recovered on the site to a moment that
// is not before t.
func (s *Site) AwaitPoint(ctx context.Context, group string, t time.Time) error {
	err := Until(ctx, 20*time.Millisecond, func() error {
		g, err := s.Group(ctx, group)
		if err != nil {
			return err
		}
		if newest := g.GetNewest().GetValidUntil().AsTime(); newest.Before(t) {
			return fmt.Errorf("the newest point is of %s", newest.Format(time.RFC3339Nano))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("wait for a point of %s at or after %s on site %s: %w\n%s", group, t.UTC().Format(time.RFC3339Nano), s.Config.Name, err, s.LogTail())
	}
	return nil
}

// SiteName names the site that shows the view.
func (v *View) SiteName() string { return v.site.Config.Name }

// Copy copies a volume's content to a file with nbdcopy.
func (v *View) Copy(ctx context.Context, volume, file string) error {
	_, err := Run(ctx, "nbdcopy", v.Exports[volume].GetNbdUri(), file)
	return err
}
