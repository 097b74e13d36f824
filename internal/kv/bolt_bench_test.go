package kv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkOpenBolt opens databases of several sizes, read from the disk each
// time, with the check of their pages and without it.
func BenchmarkOpenBolt(b *testing.B) {
	unchecked := func(path string, flag int, mode fs.FileMode) (*os.File, error) {
		f, err := os.OpenFile(path, flag, mode)
		if err == nil {
			err = errors.Join(lockFile(f), forgetCached(f))
		}
		return f, err
	}
	for _, values := range []int{100, 10_000, 200_000} {
		path := filepath.Join(b.TempDir(), "catalog.db")
		db, err := OpenBolt(path)
		for i := 0; err == nil && i < values; i += 1000 {
			err = db.Update(func(tx Tx) error {
				for j := range min(1000, values-i) {
					if err := tx.Put("segments", fmt.Appendf(nil, "%08d", i+j), make([]byte, 200)); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err == nil {
			err = db.Close()
		}
		info, err2 := os.Stat(path)
		if err = errors.Join(err, err2); err != nil {
			b.Fatal(err)
		}
		for name, open := range map[string]func(string, int, fs.FileMode) (*os.File, error){"checked": openChecked, "unchecked": unchecked} {
			b.Run(fmt.Sprintf("values=%d/MiB=%d/%s", values, info.Size()>>20, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					db, err := openBoltFile(path, open)
					if err == nil {
						err = db.Close()
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
