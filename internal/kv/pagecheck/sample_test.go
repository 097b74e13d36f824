package pagecheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

const samplePage = 4096

// image is a database file in memory.
type image []byte

func (im image) check() error { return Check(bytes.NewReader(im), int64(len(im))) }

func (im image) put16(offset int64, v uint16) { binary.NativeEndian.PutUint16(im[offset:], v) }
func (im image) put32(offset int64, v uint32) { binary.NativeEndian.PutUint32(im[offset:], v) }
func (im image) put64(offset int64, v uint64) { binary.NativeEndian.PutUint64(im[offset:], v) }
func (im image) get32(offset int64) uint32    { return binary.NativeEndian.Uint32(im[offset:]) }

// mendSums gives both meta pages the checksums of what they say.
func (im image) mendSums() {
	for page := range int64(2) {
		b := im[page*samplePage+headerBytes:]
		sum := fnv.New64a()
		_, _ = sum.Write(b[:metaSumOffset])
		binary.NativeEndian.PutUint64(b[metaSumOffset:], sum.Sum64())
	}
}

func (im image) meta(t testing.TB) meta {
	t.Helper()
	m, err := currentMeta(bytes.NewReader(im), int64(len(im)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// node reads a page of a healthy image.
func (im image) node(t testing.TB, page pageID) *node {
	t.Helper()
	m := im.meta(t)
	c := &checker{file: bytes.NewReader(im), pageBytes: m.pageBytes, highWater: m.highWater, known: make(pageSet, m.highWater/64+1)}
	n, err := c.pageNode(ref{page: page}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// free is the pages in the free list of a healthy image.
func (im image) free(t testing.TB) map[pageID]bool {
	t.Helper()
	list := int64(im.meta(t).freelist) * samplePage
	free := map[pageID]bool{}
	for i := range int64(parseHeader(im[list:]).count) {
		free[pageID(binary.NativeEndian.Uint64(im[list+headerBytes+i*pageIDBytes:]))] = true
	}
	return free
}

// top is the index of a bucket in the top level, which is a leaf in the sample,
// and value is where its value is in the file.
func (im image) top(t testing.TB, name string) (n *node, i int, value int64) {
	t.Helper()
	n = im.node(t, im.meta(t).root)
	for i := range n.count {
		e := n.element(i)
		if key := n.head[e.start : e.start+e.keyBytes]; string(key) == name {
			return n, i, n.offset + e.start + e.keyBytes
		}
	}
	t.Fatalf("no bucket %s", name)
	return nil, 0, 0
}

// root is the root node of a bucket in the top level that has pages.
func (im image) root(t testing.TB, name string) *node {
	t.Helper()
	_, _, value := im.top(t, name)
	return im.node(t, pageID(binary.NativeEndian.Uint64(im[value:])))
}

// sample makes a small database with everything that a file can have: a bucket
// of several pages, one with a value of several pages, one in another, two in
// their values, and free pages. One bucket is changed in each transaction, so
// that every run makes the same file.
func sample(t testing.TB) image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sample.db")
	db := openPlain(t, path, bbolt.FreelistArrayType)
	step := func(name string, change func(b *bbolt.Bucket) error) {
		t.Helper()
		err := db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte(name))
			if err != nil {
				return err
			}
			return change(b)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	values := func(count, valueBytes int) func(b *bbolt.Bucket) error {
		return func(b *bbolt.Bucket) error {
			for i := range count {
				value := bytes.Repeat([]byte{byte('a' + i%26)}, valueBytes)
				if err := b.Put(fmt.Appendf(nil, "key-%02d", i), value); err != nil {
					return err
				}
			}
			return nil
		}
	}
	step("branch", values(30, 250))
	step("large", values(2, 3000))
	step("nest", func(b *bbolt.Bucket) error {
		inner, err := b.CreateBucket([]byte("inner"))
		if err == nil {
			err = values(5, 250)(inner)
		}
		if err == nil {
			_, err = b.CreateBucket([]byte("nothing"))
		}
		return err
	})
	step("nothing", values(0, 0))
	step("small", values(3, 20))
	step("gone", values(8, 300))
	step("branch", func(b *bbolt.Bucket) error { return b.Delete([]byte("key-03")) })
	if err := db.Update(func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("gone")) }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	im := image(whole)
	if err := im.check(); err != nil {
		t.Fatalf("the sample itself: %v", err)
	}
	return im[:im.meta(t).highWater*samplePage]
}

// openPlain opens a file with bbolt alone, with room to write while there are
// readers.
func openPlain(t testing.TB, path string, freelist bbolt.FreelistType) *bbolt.DB {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		NoSync: true, NoGrowSync: true, PageSize: samplePage, FreelistType: freelist, InitialMmapSize: 64 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// exercise has bbolt read all of an image and change each bucket of its top
// level, in a file that is in memory. What bbolt panics over is returned; a
// fault that ends the process is the test's end too.
func exercise(im image) (err error) {
	defer func() {
		if found := recover(); found != nil {
			err = fmt.Errorf("bbolt panics: %v", found)
		}
	}()
	file, err := inMemory(im)
	if err != nil {
		return err
	}
	defer file.Close()
	db, err := bbolt.Open("", 0o600, &bbolt.Options{
		NoSync: true, NoGrowSync: true, FreelistType: bbolt.FreelistMapType,
		OpenFile: func(string, int, os.FileMode) (*os.File, error) {
			fd, err := unix.Dup(int(file.Fd()))
			return os.NewFile(uintptr(fd), "database"), err
		},
	})
	if err != nil {
		return fmt.Errorf("bbolt: %w", err)
	}
	read := 0
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error { return readAll(b, &read) })
	})
	if err == nil {
		err = db.Update(func(tx *bbolt.Tx) error { return tx.ForEach(changeSome) })
	}
	if err == nil {
		err = db.View(func(tx *bbolt.Tx) error {
			for problem := range tx.Check() {
				// Pages that nobody refers to are lost, and harmless.
				if !strings.Contains(problem.Error(), "unreachable unfreed") {
					err = errors.Join(err, problem)
				}
			}
			return err
		})
	}
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("%d bytes read: %w", read, err)
	}
	info, err := file.Stat()
	if err == nil {
		err = Check(file, info.Size())
	}
	if err != nil {
		return fmt.Errorf("after a commit: %w", err)
	}
	return nil
}

// inMemory is a file without a disk below it.
func inMemory(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("database", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "database")
	if _, err := f.WriteAt(content, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func readAll(b *bbolt.Bucket, read *int) error {
	return b.ForEach(func(k, v []byte) error {
		if inner := b.Bucket(k); v == nil && inner != nil {
			return readAll(inner, read)
		}
		if got := b.Get(k); !bytes.Equal(got, v) {
			return fmt.Errorf("key %.64q: get and walk differ", k)
		}
		*read += len(k) + len(v)
		return nil
	})
}

// changeSome puts two keys and deletes the last one of a bucket.
func changeSome(_ []byte, b *bbolt.Bucket) error {
	c := b.Cursor()
	last, value := c.Last()
	if last != nil && value != nil {
		if err := b.Delete(bytes.Clone(last)); err != nil {
			return err
		}
	}
	for _, key := range []string{"\x00first", "key-05x"} {
		if err := b.Put([]byte(key), bytes.Repeat([]byte("new"), 50)); err != nil && b.Bucket([]byte(key)) == nil {
			return err
		}
	}
	return nil
}
