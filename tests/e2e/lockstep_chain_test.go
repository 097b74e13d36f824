//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// counterScript writes each number that it is told to a device, and repeats it
// when it is durable.
const counterScript = `while read i; do printf '%-512d' $i > /tmp/sector; dd if=/tmp/sector of=/dev/data bs=512 count=1 oflag=direct conv=notrunc,fsync 2>/tmp/dd || exit 1; echo $i; done`

// causalChain writes 1, 2, 3, … in turn to the volumes of two pods, each only
// after the one before was acknowledged. A recovery point that holds i must
// hold i-1 on the other volume.
type causalChain struct {
	in     [2]io.Writer
	out    [2]*bufio.Scanner
	mu     sync.Mutex
	acked  int
	err    error
	closed bool
	done   chan struct{}
}

// startChain starts a chain over the devices of two pods.
func (n *Namespace) startChain(pods [2]string) *causalChain {
	c := &causalChain{done: make(chan struct{})}
	for k, pod := range pods {
		inReader, inWriter := io.Pipe()
		outReader, outWriter := io.Pipe()
		c.in[k], c.out[k] = inWriter, bufio.NewScanner(outReader)
		go func() {
			err := n.Stream(n.t.Context(), n.Namespace, pod, Streams{In: inReader, Out: outWriter}, "sh", "-c", counterScript)
			_ = inReader.CloseWithError(errors.Join(io.ErrClosedPipe, err))
			_ = outWriter.CloseWithError(errors.Join(io.ErrUnexpectedEOF, err))
		}()
	}
	go func() {
		defer close(c.done)
		for i := 1; c.step(i); i++ {
		}
	}()
	n.t.Cleanup(c.stop)
	return c
}

// step writes one number and reports whether there is to be another one.
func (c *causalChain) step(i int) bool {
	k := i % 2
	_, err := fmt.Fprintln(c.in[k], i)
	if err == nil && (!c.out[k].Scan() || c.out[k].Text() != strconv.Itoa(i)) {
		err = errors.Join(fmt.Errorf("write of %d is answered with %q", i, c.out[k].Text()), c.out[k].Err())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err = err; err == nil {
		c.acked = i
	}
	return err == nil && !c.closed
}

func (c *causalChain) stop() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	<-c.done
}

func (c *causalChain) state() (acked int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acked, c.err
}

// await waits until n more numbers are acknowledged, and returns the last one.
func (c *causalChain) await(t *testing.T, n int) int {
	t.Helper()
	first, _ := c.state()
	last := 0
	WaitFor(t, podTimeout, fmt.Sprintf("%d writes of the chain", n), func(context.Context) error {
		acked, err := c.state()
		if err != nil {
			return Final(err)
		}
		if last = acked; acked < first+n {
			return fmt.Errorf("%d are acknowledged", acked-first)
		}
		return nil
	})
	return last
}

// TestLockstepGroupOverNodes has one causal chain write the two volumes of a
// group on two nodes, and reads both of them at every recovery point that the
// group has then: each holds a prefix of the chain. A snapshot that is taken
// meanwhile holds what was acknowledged before it, and its restored volumes hold
// what the point does.
func TestLockstepGroupOverNodes(t *testing.T) {
	lockstepOn(t, env.A)
	nodes := env.A.Nodes(t, 2)
	ns := env.A.NewNamespace(t)
	over := env.BackingClasses[0]
	class := ns.Class(Class{Over: over, Parameters: map[string]string{"checkpointInterval": "100ms"}})
	snapshotClass := ns.SnapshotClass()
	var ids [2]string
	pods := [2]string{"even", "odd"}
	for _, pod := range pods {
		ns.CreateClaim(Claim{Name: pod, Class: class, Block: true, Annotations: inGroup})
	}
	for k, pod := range pods {
		ns.RunPod(Pod{Name: pod, Node: nodes[k], Mounts: device(pod)})
		ids[k] = ns.VolumeID(pod)
	}
	chain := ns.startChain(pods)
	chain.await(t, 20)
	before, _ := chain.state()
	took := ns.Snapshot("marker", snapshotClass, pods[0])
	Report(t, Figure{Name: "snapshot of a group on two nodes ready, under writes", Got: took.Seconds(), Target: 1, Unit: "s"})
	after := chain.await(t, 100)
	group, admin := ns.Namespace+"/"+inGroup["lockstep.dev/group"], env.A.Admin(t)
	awaitWholePoints(t, admin, group, 40)
	chain.stop()
	last, err := chain.state()
	if err != nil {
		t.Fatal(err)
	}
	pinned := checkPoints(t, admin, group, ids, last)
	if pinned < before || pinned > after {
		t.Errorf("the snapshot's point holds the chain up to %d, want %d to %d", pinned, before, after)
	}
	ns.CreateClaim(Claim{Name: "restored-even", Block: true, From: fromSnapshot("marker"), Class: ns.memberClass(over, ids[0])})
	ns.CreateClaim(Claim{Name: "restored-odd", Block: true, From: fromSnapshot("marker"), Class: ns.memberClass(over, ids[1])})
	ns.RunPod(Pod{Name: "reader", Mounts: []Mount{{Claim: "restored-even", Path: "/dev/even", Block: true}, {Claim: "restored-odd", Path: "/dev/odd", Block: true}}})
	text := ns.Sh("reader", "for d in even odd; do dd if=/dev/$d bs=512 count=1 iflag=direct 2>/dev/null | tr -d ' \\0'; echo; done")
	var even, odd int
	if _, err := fmt.Sscan(text, &even, &odd); err != nil {
		t.Fatalf("the restored volumes hold %q: %v", text, err)
	}
	if newest, err := newestOf(even, odd); err != nil || newest != pinned {
		t.Errorf("the restored volumes hold %d and %d (%v), and their point the chain up to %d", even, odd, err, pinned)
	}
}

// awaitWholePoints waits until a group has n recovery points of both volumes:
// a machine may be so slow that some rounds fail, or so fast that the writes of
// a test are done within a few.
func awaitWholePoints(t *testing.T, admin *Admin, group string, n int) {
	t.Helper()
	WaitFor(t, groupTimeout, fmt.Sprintf("%d points of both volumes", n), func(ctx context.Context) error {
		points, err := admin.Points(ctx, group)
		if err != nil {
			return err
		}
		whole := 0
		for _, point := range points {
			if point.GetMembers() == 2 {
				whole++
			}
		}
		if whole < n {
			return fmt.Errorf("there are %d", whole)
		}
		return nil
	})
}

// checkPoints reads both volumes at every recovery point of a group. Each point
// holds a prefix of the chain, none an older one than the point before it, and
// the newest the whole chain up to last. It returns what the point that a
// snapshot has pinned holds.
func checkPoints(t *testing.T, admin *Admin, group string, ids [2]string, last int) (pinned int) {
	t.Helper()
	began := time.Now()
	var points []*adminv1.Point
	WaitFor(t, podTimeout, "a point that holds the whole chain", func(ctx context.Context) error {
		var err error
		if points, err = admin.Points(ctx, group); err != nil || len(points) == 0 {
			return errors.Join(err, errors.New("there is no point"))
		}
		newest, err := chainAt(ctx, admin, group, ids, points[len(points)-1])
		if err == nil && newest < last {
			err = fmt.Errorf("the newest has it up to %d of %d", newest, last)
		}
		return err
	})
	pinned = -1
	previous, whole, different := 0, 0, 0
	for _, point := range points {
		if point.GetMembers() != 2 {
			continue // from before the second volume was made
		}
		whole++
		newest, err := chainAt(t.Context(), admin, group, ids, point)
		if err != nil {
			t.Errorf("point %d: %v", point.GetCheckpoint(), err)
			continue
		}
		if newest < previous {
			t.Errorf("point %d holds the chain up to %d, and the one before it up to %d", point.GetCheckpoint(), newest, previous)
		}
		if newest != previous {
			different++
		}
		previous = newest
		if len(point.GetPins()) > 0 {
			pinned = newest
		}
	}
	t.Logf("%d points over two nodes were read in %s, with %d different prefixes of a chain of %d", whole, time.Since(began), different, last)
	if different < 10 {
		t.Errorf("of %d points only %d differ: the chain was not tested", whole, different)
	}
	if pinned < 0 {
		t.Error("no point is pinned by the snapshot")
	}
	return pinned
}

// chainAt returns the newest number that the two volumes hold at a point, and
// an error if that is no prefix of the chain.
func chainAt(ctx context.Context, admin *Admin, group string, ids [2]string, point *adminv1.Point) (int, error) {
	contents, err := admin.ReadPoint(ctx, group, point.GetCheckpoint(), 512)
	if err != nil {
		return 0, err
	}
	var numbers [2]int
	for k, id := range ids {
		text := strings.Trim(string(contents[id]), " \x00")
		if text == "" {
			continue // never written: 0
		}
		if numbers[k], err = strconv.Atoi(text); err != nil {
			return 0, fmt.Errorf("volume %s: %w", id, err)
		}
	}
	return newestOf(numbers[0], numbers[1])
}

// newestOf returns the newest number of a chain of which one volume holds the
// even numbers, the other one the odd ones, and each its last.
func newestOf(even, odd int) (int, error) {
	if even%2 != 0 || odd != 0 && odd%2 != 1 {
		return 0, fmt.Errorf("%d and %d: a volume holds the other one's number", even, odd)
	}
	if even == 0 && odd == 0 || even-odd == 1 || odd-even == 1 {
		return max(even, odd), nil
	}
	return 0, fmt.Errorf("%d and %d are no prefix of the chain", even, odd)
}

// TestKitNewestOf checks what tells a prefix of a causal chain from all else.
func TestKitNewestOf(t *testing.T) {
	for _, k := range []struct{ even, odd, want int }{
		{0, 0, 0}, {0, 1, 1}, {2, 1, 2}, {2, 3, 3}, {100, 99, 100},
		{2, 0, -1}, {0, 3, -1}, {4, 1, -1}, {2, 5, -1}, {1, 2, -1}, {3, 3, -1}, {2, 2, -1},
	} {
		got, err := newestOf(k.even, k.odd)
		if err != nil {
			got = -1
		}
		if got != k.want {
			t.Errorf("%d and %d: %d (%v), want %d", k.even, k.odd, got, err, k.want)
		}
	}
}
