package replication

import (
	"context"
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/journal"
)

// alignRig is a source's store and a replica of it, at seq 10 of timeline 1.
func alignRig(t *testing.T) (source, replica *modelStore) {
	h := newHistory()
	source = newModelStore(h, volumeOne, 1)
	replica = filledModelStore(h, volumeOne, journal.Position{Timeline: 1}, source.Timelines(), make([]byte, modelBytes))
	writeSome(t, source, 10)
	copyRecords(t, source, replica, 10)
	return source, replica
}

// copyRecords ships up to n records of the source's path behind the replica's
// tip.
func copyRecords(t *testing.T, source, replica *modelStore, n int) {
	t.Helper()
	reader, err := source.Records(replica.Tip())
	must(t, err)
	for range n {
		r, err := reader.Next(context.Background())
		must(t, err)
		if r.Position.Timeline != replica.Tip().Timeline {
			tl, err := childOf(source.Timelines(), replica.Tip().Timeline, r.Position.Timeline)
			must(t, err)
			must(t, replica.Adopt(tl))
		}
		must(t, replica.AppendRecords([]journal.Record{r}))
	}
	must(t, replica.Flush(context.Background()))
}

func pos(timeline journal.TimelineID, seq journal.Seq) journal.Position {
	return journal.Position{Timeline: timeline, Seq: seq}
}

// TestAlign is the table of how a replica can stand to its source.
func TestAlign(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(t *testing.T, source, replica *modelStore)
		want journal.Position // zero: image
		err  error
	}{
		{"same place", func(*testing.T, *modelStore, *modelStore) {}, pos(1, 10), nil},
		{"behind", func(t *testing.T, source, _ *modelStore) { writeSome(t, source, 5) }, pos(1, 10), nil},
		{"source forked at the tip", func(t *testing.T, source, _ *modelStore) {
			must(t, source.fork(2, pos(1, 10), "recovered"))
			writeSome(t, source, 5)
		}, pos(1, 10), nil},
		{"source forked ahead of the replica", func(t *testing.T, source, _ *modelStore) {
			writeSome(t, source, 5)
			must(t, source.fork(2, pos(1, 13), "rewind"))
		}, pos(1, 10), nil},
		{"source rewound before the replica", func(t *testing.T, source, _ *modelStore) {
			must(t, source.fork(2, pos(1, 6), "rewind"))
			writeSome(t, source, 5)
		}, pos(2, 6), nil},
		{"source rewound, nothing written since", func(t *testing.T, source, _ *modelStore) {
			must(t, source.fork(2, pos(1, 6), "rewind"))
		}, pos(2, 6), nil},
		{"rewind undone through the replica's orphaned tail", func(t *testing.T, source, replica *modelStore) {
			must(t, source.fork(2, pos(1, 6), "rewind"))
			writeSome(t, source, 5)
			must(t, replica.Adopt(source.Timelines()[1]))
			copyRecords(t, source, replica, 3)
			must(t, source.fork(3, pos(1, 10), "undo"))
			writeSome(t, source, 2)
		}, pos(1, 10), nil},
		{"rewind undone behind the replica's orphaned tail", func(t *testing.T, source, replica *modelStore) {
			writeSome(t, source, 5)
			must(t, source.fork(2, pos(1, 6), "rewind"))
			must(t, replica.Adopt(source.Timelines()[1]))
			must(t, source.fork(3, pos(1, 15), "undo"))
		}, pos(1, 10), nil},
		{"replica recovered on a timeline of its own", func(t *testing.T, _, replica *modelStore) {
			must(t, replica.fork(9, pos(1, 10), "recovered"))
		}, pos(1, 10), nil},
		{"replica was written to", func(t *testing.T, source, replica *modelStore) {
			must(t, replica.fork(9, pos(1, 8), "failover"))
			writeSome(t, replica, 5)
			writeSome(t, source, 1)
		}, pos(1, 10), nil},
		{"source's horizon passed the replica", func(t *testing.T, source, _ *modelStore) {
			writeSome(t, source, 5)
			source.trim(pos(1, 12))
		}, pos(0, 0), nil},
		{"source's horizon is where the replica stands", func(t *testing.T, source, _ *modelStore) {
			writeSome(t, source, 5)
			source.trim(pos(1, 10))
		}, pos(1, 10), nil},
		{"replica's horizon passed the fork", func(t *testing.T, source, replica *modelStore) {
			replica.trim(pos(1, 9))
			must(t, source.fork(2, pos(1, 6), "rewind"))
		}, pos(0, 0), nil},
		{"replica is ahead of the source's active timeline", func(t *testing.T, source, replica *modelStore) {
			writeSome(t, source, 3)
			copyRecords(t, source, replica, 3)
			source.lines[1].records = source.lines[1].records[:10]
			source.durable = 10
		}, pos(0, 0), ErrAhead},
	} {
		t.Run(c.name, func(t *testing.T) {
			source, replica := alignRig(t)
			c.do(t, source, replica)
			opening, err := (&sending{store: source, group: "shop", term: 1}).hello()
			must(t, err)
			h, err := decodeHello(opening.GetHello())
			must(t, err)
			after, ok, err := align(replica, &h)
			if !errors.Is(err, c.err) || ok != (c.want.Timeline != 0) || ok && after != c.want {
				t.Fatalf("stands at %v, %v, %v; want %v, %v", after, ok, err, c.want, c.err)
			}
			if !ok {
				return
			}
			if !h.path.Contains(after) || replica.Tip() != after {
				t.Errorf("replica stands at %v, path is %v", replica.Tip(), h.path)
			}
			// What follows can be sent, and leads to the same content.
			for replica.Tip().Seq < source.Durable().Seq {
				copyRecords(t, source, replica, 1)
			}
			if string(replica.data) != string(source.data) {
				t.Error("replica differs from its source")
			}
		})
	}
}

// sending names the sending state machine where a parameter hides its name.
type sending = source
