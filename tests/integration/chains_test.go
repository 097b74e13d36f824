package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// chains is a load that knows what every recovery point may hold. Each chain
// writes blocks 1, 2, 3, … in turn to the volumes of a group, every one only
// after the one before was acknowledged. Block i goes to volume i mod V and
// there to slot (i/V) mod chainSlots of the chain, over what was there. A point
// that holds block i must so hold exactly the newest block of each slot up to
// i, and none after.
type chains struct {
	volumes []*harness.Volume
	pace    time.Duration
	// stubborn chains try a block that found no room again, until it does.
	stubborn bool

	stopped context.CancelFunc
	joined  sync.WaitGroup

	mu     sync.Mutex
	chains []chain
}

type chain struct {
	refused   int             // blocks that found no room, each time
	acked     []time.Time     // of block i+1
	latencies []time.Duration // of block i+1
	err       error           // why the chain ended before stop
}

const (
	chainBlock = 4096
	chainSlots = 8
)

// newBlockVolumes makes and publishes raw volumes of the group on a site.
func newBlockVolumes(ctx context.Context, t *testing.T, s *harness.Site, n int, bytes int64, parameters map[string]string) []*harness.Volume {
	t.Helper()
	var volumes []*harness.Volume
	for i := range n {
		v := must(s.CreateVolume(ctx, harness.VolumeSpec{Name: fmt.Sprintf("raw-%d", i), SizeBytes: bytes, Parameters: parameters}))(t)
		check(t, s.Publish(ctx, v))
		volumes = append(volumes, v)
	}
	return volumes
}

func newChains(volumes []*harness.Volume, n int) *chains {
	return &chains{volumes: volumes, pace: 2 * time.Millisecond, chains: make([]chain, n)}
}

// start writes on, from where the chains ended. The caller calls stop.
func (c *chains) start(t *testing.T) {
	t.Helper()
	ctx, stopped := context.WithCancel(context.Background())
	c.stopped = stopped
	for k := range c.chains {
		c.joined.Go(func() {
			if err := c.write(ctx, k); err != nil {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.chains[k].err = err
			}
		})
	}
	t.Cleanup(c.stop)
}

// stop ends the chains, each after a block that was acknowledged.
func (c *chains) stop() {
	c.stopped()
	c.joined.Wait()
}

// err says why chains ended by themselves; nil if none did.
func (c *chains) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for k := range c.chains {
		errs = append(errs, c.chains[k].err)
	}
	return errors.Join(errs...)
}

func (c *chains) write(ctx context.Context, k int) error {
	var files []*os.File
	for _, v := range c.volumes {
		f, err := os.OpenFile(v.Target, os.O_RDWR|unix.O_DIRECT, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		files = append(files, f)
	}
	// Direct I/O wants an aligned buffer, which pages are.
	block, err := unix.Mmap(-1, 0, chainBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(block) //nolint:errcheck // the test's end frees it too
	pace := time.NewTicker(c.pace)
	defer pace.Stop()
	for {
		i := c.count(k) + 1
		select {
		case <-pace.C:
		case <-ctx.Done():
			return nil
		}
		fillBlock(block, k, i)
		volume, slot := c.place(i)
		began := time.Now()
		_, err := files[volume].WriteAt(block, chainOffset(k, slot))
		if c.stubborn && errors.Is(err, unix.ENOSPC) {
			c.refuse(k)
			continue
		}
		if err != nil {
			return fmt.Errorf("chain %d, block %d: %w", k, i, err)
		}
		c.acknowledged(k, began)
	}
}

// place says where a block goes.
func (c *chains) place(i int) (volume, slot int) {
	n := len(c.volumes)
	return i % n, i / n % chainSlots
}

func chainOffset(k, slot int) int64 { return int64(k*chainSlots+slot) * chainBlock }

// fillBlock makes block i of chain k: both numbers, and what nothing can
// compress that follows from them.
func fillBlock(block []byte, k, i int) {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], uint64(k))
	binary.BigEndian.PutUint64(seed[8:], uint64(i))
	_, _ = rand.NewChaCha8(seed).Read(block) // never fails
	binary.BigEndian.PutUint64(block, uint64(k+1))
	binary.BigEndian.PutUint64(block[8:], uint64(i))
}

func (c *chains) count(k int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.chains[k].acked)
}

func (c *chains) acknowledged(k int, began time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.chains[k].acked = append(c.chains[k].acked, now)
	c.chains[k].latencies = append(c.chains[k].latencies, now.Sub(began))
}

func (c *chains) refuse(k int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.chains[k].refused++
}

// awaitMore waits until each chain has n more blocks acknowledged. They have a hundred
// times their pace for it, and not less than two hundred blocks would have: what holds
// writes up fails the test, and a busy machine does not.
func (c *chains) awaitMore(ctx context.Context, t *testing.T, n int) {
	t.Helper()
	var wanted []int
	for k := range c.chains {
		wanted = append(wanted, c.count(k)+n)
	}
	ctx, cancel := context.WithTimeout(ctx, 100*time.Duration(max(n, blocksAlone))*c.pace)
	defer cancel()
	check(t, harness.Until(ctx, 10*time.Millisecond, func() error {
		for k := range c.chains {
			if left := wanted[k] - c.count(k); left > 0 {
				return fmt.Errorf("chain %d has %d of %d blocks to write", k, left, n)
			}
		}
		return nil
	}))
}

// refused is how often a block found no room.
func (c *chains) refused() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.chains {
		n += c.chains[k].refused
	}
	return n
}

// clone returns chains that have written what these have, and are not started.
func (c *chains) clone() *chains {
	c.mu.Lock()
	defer c.mu.Unlock()
	other := newChains(c.volumes, len(c.chains))
	for k := range c.chains {
		other.chains[k] = chain{acked: slices.Clone(c.chains[k].acked), latencies: slices.Clone(c.chains[k].latencies)}
	}
	return other
}

// failed counts the chains that ended by themselves.
func (c *chains) failed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for k := range c.chains {
		if c.chains[k].err != nil {
			n++
		}
	}
	return n
}

// writtenBytes is what was acknowledged so far.
func (c *chains) writtenBytes() int64 {
	var n int64
	for k := range c.chains {
		n += int64(c.count(k)) * chainBlock
	}
	return n
}

// slowest is the longest that a write acknowledged in [from, to) took.
func (c *chains) slowest(from, to time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	var longest time.Duration
	for k := range c.chains {
		for i, at := range c.chains[k].acked {
			if !at.Before(from) && at.Before(to) {
				longest = max(longest, c.chains[k].latencies[i])
			}
		}
	}
	return longest
}

// verify checks a point: per chain a prefix, with everything acknowledged
// before the point's time. It returns how long each chain is there.
func (c *chains) verify(v *harness.View) ([]int, error) {
	images := make([][]byte, len(c.volumes))
	for i, volume := range c.volumes {
		images[i] = make([]byte, chainOffset(len(c.chains), 0))
		if err := v.Read(volume.ID, images[i], 0); err != nil {
			return nil, err
		}
	}
	lengths := make([]int, len(c.chains))
	for k := range c.chains {
		length, err := c.verifyChain(images, k)
		if err != nil {
			return nil, fmt.Errorf("checkpoint %d on site %s: chain %d: %w", v.Point.GetCheckpoint(), v.SiteName(), k, err)
		}
		least, most := c.bounds(k, v.Point.GetTime().AsTime())
		if length < least || length > most {
			return nil, fmt.Errorf("checkpoint %d on site %s: chain %d has %d blocks, want %d (acknowledged before) to %d (sent)",
				v.Point.GetCheckpoint(), v.SiteName(), k, length, least, most)
		}
		lengths[k] = length
	}
	return lengths, nil
}

// bounds says how many blocks a point of a moment may hold: one more than was
// acknowledged may have been written.
func (c *chains) bounds(k int, t time.Time) (least, most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	acked := c.chains[k].acked
	least, _ = slices.BinarySearchFunc(acked, t, time.Time.Compare)
	return least, len(acked) + 1
}

// verifyChain finds a chain's newest block and checks that every slot holds
// what it held when that block was written.
func (c *chains) verifyChain(images [][]byte, k int) (length int, err error) {
	blockAt := func(volume, slot int) []byte { return images[volume][chainOffset(k, slot):][:chainBlock] }
	for volume := range c.volumes {
		for slot := range chainSlots {
			length = max(length, int(binary.BigEndian.Uint64(blockAt(volume, slot)[8:])))
		}
	}
	want := make([]byte, chainBlock)
	span := len(c.volumes) * chainSlots // each slot of each volume once
	for i := length; i > length-span; i-- {
		clear(want)
		if i > 0 {
			fillBlock(want, k, i)
		}
		volume, slot := c.place((i + span) % span)
		if got := blockAt(volume, slot); !bytes.Equal(got, want) {
			return 0, fmt.Errorf("the newest block is %d, so volume %d must hold block %d in slot %d; it holds %d",
				length, volume, max(i, 0), slot, binary.BigEndian.Uint64(got[8:]))
		}
	}
	return length, nil
}

// verifyVolume checks what one volume alone holds of all chains: of each the
// newest block of every slot, up to some block.
func (c *chains) verifyVolume(image []byte, volume int) error {
	want := make([]byte, chainBlock)
	for k := range c.chains {
		newest := 0
		for slot := range chainSlots {
			newest = max(newest, int(binary.BigEndian.Uint64(image[chainOffset(k, slot)+8:])))
		}
		if newest == 0 {
			newest = volume - len(c.volumes) // before the first
		}
		for n := range chainSlots {
			i := newest - n*len(c.volumes)
			clear(want)
			if i > 0 {
				fillBlock(want, k, i)
			}
			_, slot := c.place(i + chainSlots*len(c.volumes))
			if got := image[chainOffset(k, slot):][:chainBlock]; !bytes.Equal(got, want) {
				return fmt.Errorf("chain %d: the volume's newest block is %d, so slot %d must hold block %d; it holds %d",
					k, newest, slot, max(i, 0), binary.BigEndian.Uint64(got[8:]))
			}
		}
	}
	return nil
}

// resume makes the chains go on from what a point held, on other devices.
func (c *chains) resume(lengths []int, volumes []*harness.Volume) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.volumes = volumes
	for k, n := range lengths {
		for len(c.chains[k].acked) < n { // written, and its answer lost
			c.chains[k].acked = append(c.chains[k].acked, time.Now())
			c.chains[k].latencies = append(c.chains[k].latencies, 0)
		}
		c.chains[k] = chain{acked: c.chains[k].acked[:n], latencies: c.chains[k].latencies[:n]}
	}
}

// verifyAll opens every recovery point of a site that from selects and checks
// it. It returns how many there were.
func (c *chains) verifyAll(ctx context.Context, t *testing.T, s *harness.Site, after uint64) int {
	t.Helper()
	points := must(s.Points(ctx, groupName))(t)
	n := 0
	var slowest time.Duration
	for _, p := range points {
		if p.GetCheckpoint() <= after || int(p.GetMembers()) < len(c.volumes) {
			continue
		}
		began := time.Now()
		v := must(s.OpenView(ctx, groupName, fmt.Sprint(p.GetCheckpoint())))(t)
		slowest = max(slowest, time.Since(began))
		_, err := c.verify(v)
		if err := errors.Join(err, v.Close(ctx)); err != nil {
			t.Fatal(err)
		}
		n++
	}
	t.Logf("site %s: %d points hold a prefix of every chain; the slowest opened in %v", s.Config.Name, n, slowest)
	return n
}
