package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	// exercisedBytes is how long an exercised file may become.
	exercisedBytes = 1 << 20
	pageBytes      = 4096
	// sealedFiles is how many files are kept of those that are done.
	sealedFiles = 6
)

// exerciser makes random calls on a file in a directory and compares what it
// reads with a model in memory, in the manner of fsx. From time to time it is
// done with a file: that one is made durable, sealed under another name, and
// must be as it is in every later crash image until it is removed. It is for
// one goroutine.
type exerciser struct {
	dir  string
	rng  *rand.Rand
	mark *marker
	file *os.File
	// want is what the file holds.
	want   []byte
	calls  []exercise
	total  int // of the weights of calls
	count  int // of calls made
	counts map[string]int
	seals  []seal
}

// seal is a file that is done.
type seal struct {
	digest [sha256.Size]byte
	// Crash images with markers in [from, removed) have the file, and those
	// from removed on may have it.
	from, removed int
}

// kept stands in for a seal's removed as long as the file is there.
const kept = int(^uint(0) >> 1)

// exercise is one kind of call and how often it is made.
type exercise struct {
	name   string
	weight int
	call   func(*exerciser) error
}

// exercises are the calls that every file system here knows, and
// exercisesOfExtents those that move extents within a file.
var (
	exercises = []exercise{
		{"write", 20, (*exerciser).write},
		{"write behind the end", 4, (*exerciser).extend},
		{"write directly", 6, (*exerciser).writeDirect},
		{"write through a mapping", 8, (*exerciser).writeMapped},
		{"read", 10, (*exerciser).read},
		{"truncate", 4, (*exerciser).truncate},
		{"punch", 5, (*exerciser).punch},
		{"allocate", 3, (*exerciser).allocate},
		{"zero", 3, (*exerciser).zero},
		{"copy", 3, (*exerciser).copyRange},
		{"sync", 4, (*exerciser).sync},
		{"evict", 2, (*exerciser).evict},
		{"reopen", 1, (*exerciser).reopen},
		{"seal", 2, (*exerciser).seal},
	}
	exercisesOfExtents = []exercise{
		{"collapse", 2, (*exerciser).collapse},
		{"insert", 2, (*exerciser).insert},
	}
)

// newExerciser begins in a directory with an empty file.
func newExerciser(dir string, mark *marker, seed uint64, calls []exercise) (*exerciser, error) {
	e := &exerciser{dir: dir, mark: mark, rng: rand.New(rand.NewPCG(seed, 3)), calls: calls, counts: map[string]int{}}
	for _, c := range calls {
		e.total += c.weight
	}
	return e, e.begin()
}

func (e *exerciser) begin() (err error) {
	e.want = nil
	e.file, err = os.OpenFile(e.path("current"), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	return err
}

func (e *exerciser) path(name string) string { return filepath.Join(e.dir, name) }

func sealName(n int) string { return fmt.Sprintf("sealed-%04d", n) }

// run makes n calls.
func (e *exerciser) run(ctx context.Context, n int) error {
	for range n {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		e.count++
		pick, i := e.rng.IntN(e.total), 0
		for ; pick >= e.calls[i].weight; i++ {
			pick -= e.calls[i].weight
		}
		e.counts[e.calls[i].name]++
		if err := e.calls[i].call(e); err != nil {
			return fmt.Errorf("call %d, %s: %w", e.count, e.calls[i].name, err)
		}
	}
	return nil
}

// pause closes the file, so that the file system can be unmounted, and resume
// opens it again and compares all that is there.
func (e *exerciser) pause() error { return e.file.Close() }

func (e *exerciser) resume() (err error) {
	if e.file, err = os.OpenFile(e.path("current"), os.O_RDWR, 0o600); err != nil {
		return err
	}
	return errors.Join(e.compare(0, len(e.want)), e.checkSeals(len(e.seals)))
}

// compare reads a range and compares it, and the file's size, with the model.
func (e *exerciser) compare(off, length int) error {
	info, err := e.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() != int64(len(e.want)) {
		return fmt.Errorf("the file has %d bytes, want %d", info.Size(), len(e.want))
	}
	got := make([]byte, length)
	if _, err := e.file.ReadAt(got, int64(off)); err != nil {
		return err
	}
	return differ(got, e.want[off:off+length], off)
}

// differ names the first byte that is not as it should be.
func differ(got, want []byte, off int) error {
	if bytes.Equal(got, want) {
		return nil
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("byte %d is %#02x, want %#02x", off+i, got[i], want[i])
		}
	}
	return nil
}

// checkSeals looks for the sealed files that a crash image must or may have
// when its marker is m.
func (e *exerciser) checkSeals(m int) error {
	for n, s := range e.seals {
		b, err := os.ReadFile(e.path(sealName(n)))
		switch {
		case errors.Is(err, fs.ErrNotExist) && (m < s.from || m >= s.removed):
		case err != nil:
			return fmt.Errorf("marker %d: a file that was durable: %w", m, err)
		case sha256.Sum256(b) != s.digest:
			return fmt.Errorf("marker %d: %s does not hold what it held when it was made durable", m, sealName(n))
		}
	}
	return nil
}

// seal makes the file durable under a name of its own, and begins another one.
func (e *exerciser) seal() error {
	n := len(e.seals)
	if err := errors.Join(e.compare(0, len(e.want)), e.file.Sync(), e.file.Close()); err != nil {
		return err
	}
	if err := os.Rename(e.path("current"), e.path(sealName(n))); err != nil {
		return err
	}
	if err := syncDir(e.dir); err != nil {
		return err
	}
	e.seals = append(e.seals, seal{digest: sha256.Sum256(e.want), from: n + 1, removed: kept})
	if err := e.mark.set(n + 1); err != nil {
		return err
	}
	if old := n - sealedFiles; old >= 0 {
		e.seals[old].removed = n + 1
		if err := os.Remove(e.path(sealName(old))); err != nil {
			return err
		}
	}
	return e.begin()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// extent chooses a range of the file as it is, which is not empty.
func (e *exerciser) extent() (off, length int) {
	if len(e.want) == 0 {
		return 0, 0
	}
	off = e.rng.IntN(len(e.want))
	return off, 1 + e.rng.IntN(min(len(e.want)-off, 64<<10))
}

// pages chooses whole pages that the file has.
func (e *exerciser) pages() (off, length int) {
	pages := len(e.want) / pageBytes
	if pages == 0 {
		return 0, 0
	}
	first := e.rng.IntN(pages)
	return first * pageBytes, (1 + e.rng.IntN(min(pages-first, 16))) * pageBytes
}

func (e *exerciser) noise(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(e.rng.Uint32())
	}
	return p
}

// holds makes the model hold p at off.
func (e *exerciser) holds(p []byte, off int) {
	e.sized(max(len(e.want), off+len(p)))
	copy(e.want[off:], p)
}

// sized makes the model n bytes long.
func (e *exerciser) sized(n int) {
	if n <= len(e.want) {
		e.want = e.want[:n:n]
		return
	}
	e.want = append(e.want, make([]byte, n-len(e.want))...)
}

func (e *exerciser) fallocate(mode uint32, off, length int) error {
	return unix.Fallocate(int(e.file.Fd()), mode, int64(off), int64(length))
}
