package integration

import (
	"bytes"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// TestChainsFindEveryHole shows that the check of the chains can fail: it
// accepts the images of every prefix, and no image from which one of the
// newest blocks is missing.
func TestChainsFindEveryHole(t *testing.T) {
	const volumes, longest = 3, 60
	c := newChains(make([]*harness.Volume, volumes), 2)
	const k = 1
	images := make([][]byte, volumes)
	for i := range images {
		images[i] = make([]byte, chainOffset(len(c.chains), 0))
	}
	slotOf := func(i int) []byte {
		volume, slot := c.place(i)
		return images[volume][chainOffset(k, slot):][:chainBlock]
	}
	for i := 1; i <= longest; i++ {
		fillBlock(slotOf(i), k, i)
		if length, err := c.verifyChain(images, k); err != nil || length != i {
			t.Fatalf("a prefix of %d blocks is taken for %d: %v", i, length, err)
		}
		for volume := range images {
			if err := c.verifyVolume(images[volume], volume); err != nil {
				t.Fatalf("a prefix of %d blocks, volume %d alone: %v", i, volume, err)
			}
		}
		if i < 2 {
			continue
		}
		// The block before is missing although this one is there.
		missing := bytes.Clone(slotOf(i - 1))
		fillBlock(slotOf(i-1), k, max(0, i-1-volumes*chainSlots))
		if _, err := c.verifyChain(images, k); err == nil || !strings.Contains(err.Error(), "must hold block") {
			t.Fatalf("block %d without block %d: %v", i, i-1, err)
		}
		copy(slotOf(i-1), missing)
		if i <= volumes {
			continue
		}
		// The same of the block before in one volume.
		volume, _ := c.place(i)
		missing = bytes.Clone(slotOf(i - volumes))
		clear(slotOf(i - volumes))
		if err := c.verifyVolume(images[volume], volume); err == nil || !strings.Contains(err.Error(), "must hold block") {
			t.Fatalf("block %d without block %d, volume %d alone: %v", i, i-volumes, volume, err)
		}
		copy(slotOf(i-volumes), missing)
	}
}
