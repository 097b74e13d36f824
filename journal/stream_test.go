package journal

import (
	"bytes"
	"slices"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// streamedFile notes what of a file does not stay in the cache.
type streamedFile struct {
	vfs.File
	streamed [][2]int64 // from, to
}

func (f *streamedFile) StreamVecAt(bufs [][]byte, off int64) (int, error) {
	n, err := f.File.StreamVecAt(bufs, off)
	f.streamed = append(f.streamed, [2]int64{off, off + int64(n)})
	return n, err
}

// Long appends to a journal that is larger than the cache leave it but for the page in which the next one begins, and
// all bytes are where one write would have put them.
func TestLongAppendsLeaveTheCache(t *testing.T) {
	const off = 3*blockBytes + 1024
	for _, tt := range []struct {
		name     string
		cache    int64 // for a journal of 2 bytes
		parts    []int // lengths of the buffers: frames, then padding
		padding  int
		streamed [][2]int64
	}{
		{"short", 1, []int{64, 4096}, blockBytes - 64 - 1024, nil},
		{"long", 1, []int{64, streamBytes}, blockBytes - 64 - 1024, [][2]int64{{off, 3*blockBytes + streamBytes}}},
		{"several", 1, []int{64, streamBytes, 64, 1024, 512}, blockBytes - 128 - 2560, [][2]int64{{off, 3*blockBytes + streamBytes}}},
		{"to the end of a page", 1, []int{64, streamBytes + blockBytes - 64 - 1024}, 0, [][2]int64{{off, 4*blockBytes + streamBytes}}},
		{"of a journal that fits the cache", 2, []int{64, streamBytes}, blockBytes - 64 - 1024, nil},
		{"where nobody knows of a cache", 0, []int{64, streamBytes}, blockBytes - 64 - 1024, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inner, err := vfs.NewMem().Create("segment")
			if err != nil {
				t.Fatal(err)
			}
			f := &streamedFile{File: inner}
			var bufs [][]byte
			end := int64(off)
			for i, n := range tt.parts {
				bufs = append(bufs, bytes.Repeat([]byte{byte(i + 1)}, n))
				end += int64(n)
			}
			if tt.padding > 0 {
				bufs = append(bufs, padding[:tt.padding])
			}
			want := slices.Concat(bufs...)
			s := &Store{cfg: Config{CacheBytes: tt.cache, JournalBytes: 2}}
			s.noteStreaming()
			n, err := s.writeAppend(f, bufs, off, end)
			if n != len(want) || err != nil {
				t.Fatalf("wrote %d bytes, %v, want %d", n, err, len(want))
			}
			got := make([]byte, len(want))
			if _, err := inner.ReadAt(got, off); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Error("other bytes than were given")
			}
			if !slices.Equal(f.streamed, tt.streamed) {
				t.Errorf("streamed %v, want %v", f.streamed, tt.streamed)
			}
		})
	}
}
