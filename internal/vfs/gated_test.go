package vfs_test

import (
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

var errShut = errors.New("no permission")

// Every call that changes something asks first, and changes nothing when it is
// refused; reads do not ask.
func TestGatedChangesNothingWithoutPermission(t *testing.T) {
	shut := false
	asked := 0
	g := vfs.Gated{FS: vfs.NewMem(), Pass: func() error {
		asked++
		if shut {
			return errShut
		}
		return nil
	}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(g.MkdirAll("/d"))
	f, err := g.Create("/d/f")
	must(err)
	_, err = f.WriteAt([]byte("abcd"), 0)
	must(err)
	must(f.Sync())
	db, err := g.OpenDB("/d/db")
	must(err)
	shut = true
	changes := map[string]func() error{
		"Create":        func() error { _, err := g.Create("/d/other"); return err },
		"Remove":        func() error { return g.Remove("/d/f") },
		"RemoveAll":     func() error { return g.RemoveAll("/d") },
		"Rename":        func() error { return g.Rename("/d/f", "/d/other") },
		"Link":          func() error { return g.Link("/d/f", "/d/other") },
		"MkdirAll":      func() error { return g.MkdirAll("/e") },
		"Lock":          func() error { _, err := g.Lock("/d/lock"); return err },
		"OpenDB":        func() error { _, err := g.OpenDB("/d/other"); return err },
		"WriteAt":       func() error { _, err := f.WriteAt([]byte("x"), 0); return err },
		"WriteVecAt":    func() error { _, err := f.WriteVecAt([][]byte{[]byte("x")}, 0); return err },
		"StreamVecAt":   func() error { _, err := f.StreamVecAt([][]byte{[]byte("x")}, 0); return err },
		"WriteDirectAt": func() error { _, err := f.WriteDirectAt(vfs.AlignedBytes(4096), 0); return err },
		"Sync":          f.Sync,
		"Truncate":      func() error { return f.Truncate(0) },
		"Allocate":      func() error { return f.Allocate(0, 1<<20) },
		"PunchHole":     func() error { return f.PunchHole(0, 4096) },
		"Update":        func() error { return db.Update(func(kv.Tx) error { t.Error("an update ran"); return nil }) },
	}
	for name, change := range changes {
		if err := change(); !errors.Is(err, errShut) || !errors.Is(err, vfs.ErrRefused) {
			t.Errorf("%s: %v, want ErrRefused with its reason", name, err)
		}
	}
	before := asked
	names, err := g.ReadDir("/d")
	must(err)
	if len(names) != 2 {
		t.Errorf("names %v, want the file and the database", names)
	}
	again, err := g.Open("/d/f")
	must(err)
	p := make([]byte, 4)
	_, err = again.ReadAt(p, 0)
	must(err)
	if size, err := f.Size(); err != nil || size != 4 || string(p) != "abcd" {
		t.Errorf("content %q of %d bytes, %v", p, size, err)
	}
	must(db.View(func(kv.Tx) error { return nil }))
	if asked != before {
		t.Errorf("reads asked %d times", asked-before)
	}
	must(errors.Join(again.Close(), f.Close(), db.Close()))
}
