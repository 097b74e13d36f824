package site_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// unreadable is a file system that cannot read which volume a store is of, for as long as it
// is on.
type unreadable struct {
	vfs.FS
	on bool
}

var errUnreadable = errors.New("input/output error")

func (u *unreadable) fails(name string) bool { return u.on && strings.HasSuffix(name, "/volume.json") }

func (u *unreadable) Stat(name string) (int64, error) {
	if u.fails(name) {
		return 0, errUnreadable
	}
	return u.FS.Stat(name)
}

func (u *unreadable) Open(name string) (vfs.File, error) {
	if u.fails(name) {
		return nil, errUnreadable
	}
	return u.FS.Open(name)
}

func (u *unreadable) OpenReadOnly(name string) (vfs.File, error) {
	if u.fails(name) {
		return nil, errUnreadable
	}
	return u.FS.OpenReadOnly(name)
}

// TestAStoreThatWasNotFoundIsFoundAgain: a replica's store that cannot be seen at one start of the
// site, because what it is on is not mounted or cannot be read, is neither forgotten for good
// nor removed by the next one.
func TestAStoreThatWasNotFoundIsFoundAgain(t *testing.T) {
	const volumes, aside = "/root/volumes", "/aside"
	for name, hide := range map[string]func(t *testing.T, fs *unreadable, hidden bool){
		"not mounted": func(t *testing.T, fs *unreadable, hidden bool) {
			from, to := volumes, aside
			if !hidden {
				from, to = aside, volumes
			}
			if err := fs.Rename(from, to); err != nil {
				t.Fatal(err)
			}
		},
		"not readable": func(_ *testing.T, fs *unreadable, hidden bool) { fs.on = hidden },
	} {
		t.Run(name, func(t *testing.T) {
			fs := &unreadable{FS: vfs.NewMem()}
			s := prepared(t, fs)
			demoted(t, s)
			mustClose(t, s)
			hide(t, fs, true)
			s = mustOpen(t, fs)
			demoted(t, s) // it hears from its primary
			mustClose(t, s)
			hide(t, fs, false)
			s = mustOpen(t, fs)
			s.expect(t, 2)
			if _, err := s.Groups().Failover(t.Context(), "shop", "pin:before", false); err != nil {
				t.Error(err)
			}
			s.expect(t, 1)
			mustClose(t, s)
		})
	}
}

// TestAStoreThatAFailoverDidWithoutIsNotRemoved: it may be all that there is of the volume.
func TestAStoreThatAFailoverDidWithoutIsNotRemoved(t *testing.T) {
	fs := vfs.NewMem()
	s := prepared(t, fs)
	if err := s.create(volumeC, nil); err != nil {
		t.Fatal(err)
	}
	follow(t, s, 2, append(slices.Clone(members), volumeC), nil)
	mustClose(t, s)
	dir := "/root/volumes/" + volumeC.String()
	if err := fs.Rename(dir, "/aside"); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, fs)
	if _, err := s.Groups().Failover(t.Context(), "shop", "pin:before", false); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	if err := fs.Rename("/aside", dir); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, fs)
	if v, err := s.Volume(volumeC); err != nil || v.Open {
		t.Errorf("volume %+v, %v: it is in use in a group that was failed over without it", v, err)
	}
	mustClose(t, s)
	if _, err := fs.Stat(dir + "/store-1/volume.json"); err != nil {
		t.Errorf("its store: %v", err)
	}
}
