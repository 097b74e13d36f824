package pagecheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

func readImage(t rapid.TB, path string) image {
	t.Helper()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return whole
}

// TestWhatBoltWritesPasses: after every commit of random changes the file
// passes, and so does all that a crash in the middle of the commit may leave:
// any of its pages before the meta page is written, then the meta page.
func TestWhatBoltWritesPasses(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		path := filepath.Join(dir, fmt.Sprintf("%d.db", runs))
		db := openPlain(t, path, rapid.SampledFrom([]bbolt.FreelistType{bbolt.FreelistMapType, bbolt.FreelistArrayType}).Draw(rt, "free list"))
		var reader *bbolt.Tx // keeps the pages of its moment from being reused
		endReader := func() {
			if reader != nil {
				_ = reader.Rollback()
				reader = nil
			}
		}
		defer func() { endReader(); _ = db.Close(); _ = os.Remove(path) }()
		for range rapid.IntRange(1, 8).Draw(rt, "commits") {
			if rapid.Bool().Draw(rt, "reader") {
				endReader()
				reader, _ = db.Begin(false)
			}
			before := readImage(rt, path)
			if err := db.Update(func(tx *bbolt.Tx) error { return randomChanges(rt, tx) }); err != nil {
				rt.Fatal(err)
			}
			after := readImage(rt, path)
			if err := after.check(); err != nil {
				rt.Fatalf("after a commit: %v", err)
			}
			crashed := crashImage(rt, before, after)
			if err := crashed.check(); err != nil {
				rt.Fatalf("after a crash: %v", err)
			}
			if got := content(rt, crashed); got != content(rt, before) && got != content(rt, after) {
				rt.Fatal("a crash shows a state that was never committed")
			}
		}
	})
}

// randomChanges puts and deletes in buckets that are also nested, with keys and
// values that fill pages with few or with many elements.
func randomChanges(rt *rapid.T, tx *bbolt.Tx) error {
	for range rapid.IntRange(0, 40).Draw(rt, "changes") {
		name := []byte(rapid.SampledFrom([]string{"a", "b", strings.Repeat("c", 300)}).Draw(rt, "bucket"))
		if rapid.IntRange(0, 30).Draw(rt, "drop") == 0 {
			if err := tx.DeleteBucket(name); err != nil && tx.Bucket(name) != nil {
				return err
			}
			continue
		}
		b, err := tx.CreateBucketIfNotExists(name)
		if err == nil && rapid.IntRange(0, 8).Draw(rt, "nest") == 0 {
			b, err = b.CreateBucketIfNotExists([]byte("nested"))
		}
		if err != nil {
			return err
		}
		key := fmt.Appendf(nil, "%03d", rapid.IntRange(0, 200).Draw(rt, "key"))
		key = append(key, strings.Repeat("k", rapid.SampledFrom([]int{0, 0, 5, 1300, 5000}).Draw(rt, "key bytes"))...)
		if rapid.IntRange(0, 2).Draw(rt, "delete") == 0 {
			// The one that is there is more likely to be hit than a random key.
			if k, v := b.Cursor().Seek(key); k != nil && v != nil {
				err = b.Delete(bytes.Clone(k))
			}
		} else {
			err = b.Put(key, make([]byte, rapid.SampledFrom([]int{0, 10, 200, 900, 6000}).Draw(rt, "value bytes")))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// crashImage is what a crash during the commit that made after of before may
// leave: none, some or all of its pages, and with all of them the meta page.
func crashImage(rt *rapid.T, before, after image) image {
	crashed := image(bytes.Clone(before))
	if grown := len(after) - len(before); grown > 0 {
		crashed = append(crashed, make([]byte, rapid.SampledFrom([]int{0, grown}).Draw(rt, "grown"))...)
	}
	written := rapid.IntRange(0, 3).Draw(rt, "written") // quarters
	for at := 2 * samplePage; at < len(crashed); at += samplePage {
		if rapid.IntRange(0, 3).Draw(rt, "page") < written {
			copy(crashed[at:at+samplePage], after[at:])
		}
	}
	if rapid.IntRange(0, 3).Draw(rt, "meta") == 0 {
		return bytes.Clone(after)
	}
	return crashed
}

// content is what bbolt reads from an image.
func content(rt *rapid.T, im image) string {
	db, err := bbolt.Open("", 0o600, &bbolt.Options{
		NoSync: true, OpenFile: func(string, int, os.FileMode) (*os.File, error) { return inMemory(im) },
	})
	if err != nil {
		rt.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var text strings.Builder
	var list func(b *bbolt.Bucket) error
	list = func(b *bbolt.Bucket) error {
		return b.ForEach(func(k, v []byte) error {
			fmt.Fprintf(&text, "%s=%d;", k, len(v))
			if inner := b.Bucket(k); inner != nil {
				text.WriteString("{")
				defer text.WriteString("}")
				return list(inner)
			}
			return nil
		})
	}
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			fmt.Fprintf(&text, "\n%s:", name)
			return list(b)
		})
	})
	if err != nil {
		rt.Fatal(err)
	}
	return text.String()
}

// TestWithoutFreelist: bbolt can be told not to write the free list, and then
// finds the free pages by walking the trees.
func TestWithoutFreelist(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sample.db")
	if err := os.WriteFile(path, sample(t), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, NoFreelistSync: true})
	if err == nil {
		err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("branch")).Put([]byte("a"), nil) })
	}
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	im := readImage(t, path)
	if err := im.check(); err != nil || im.meta(t).freelist != noFreelist {
		t.Fatalf("free list in page %d: %v", im.meta(t).freelist, err)
	}
	if err := exercise(im); err != nil {
		t.Fatal(err)
	}
}

// TestLongFreelist: from 0xFFFF free pages on, their number is in the list.
func TestLongFreelist(t *testing.T) {
	for _, free := range []int{manyFree - 1, manyFree, manyFree + 40000} {
		path := filepath.Join(t.TempDir(), "sparse.db")
		im := withFreePages(t, free)
		file, err := os.Create(path)
		if err == nil {
			_, err = file.Write(im)
		}
		if err == nil {
			err = file.Truncate(int64(im.highWater()) * samplePage)
		}
		if err == nil {
			err = Check(file, int64(im.highWater())*samplePage)
		}
		if err = errors.Join(err, file.Close()); err != nil {
			t.Fatalf("%d free pages: %v", free, err)
		}
		db := openPlain(t, path, bbolt.FreelistMapType)
		if got := db.Stats().FreePageN; got != free {
			t.Errorf("bbolt finds %d free pages, want %d", got, free)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func (im image) highWater() uint64 { return binary.NativeEndian.Uint64(im[atHighWater:]) }

// withFreePages is the beginning of an empty database, behind which there are
// as many free pages.
func withFreePages(t *testing.T, free int) image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "empty.db")
	if err := openPlain(t, path, bbolt.FreelistMapType).Close(); err != nil {
		t.Fatal(err)
	}
	im := readImage(t, path)[:4*samplePage]
	ids := []uint64{}
	if free >= manyFree {
		ids = append(ids, uint64(free))
	}
	// Pages 2 and 3 stay the list and the root: the list goes behind them.
	listPages := uint64((headerBytes+pageIDBytes*(free+1))/samplePage + 1)
	for id := range uint64(free) {
		ids = append(ids, 4+listPages+id)
	}
	ids[len(ids)-1] = 2 // where the list was
	list := image(make([]byte, listPages*samplePage))
	list.put64(0, 4)
	list.put16(atKind, uint16(freelistKind))
	list.put16(atCount, uint16(min(free, manyFree)))
	list.put32(atOverflow, uint32(listPages-1))
	for i, id := range ids {
		list.put64(headerBytes+int64(i)*pageIDBytes, id)
	}
	im = append(im, list...)
	for page := range int64(2) {
		im.put64(page*samplePage+atFreelist, 4)
		im.put64(page*samplePage+atHighWater, 4+listPages+uint64(free)-1)
	}
	im.mendSums()
	return im
}
