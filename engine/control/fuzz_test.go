package control

import (
	"math"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	enginev1 "github.com/lockstep-csi/lockstep/api/engine/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

// FuzzOrders: what an engine accepts is what it was sent.
func FuzzOrders(f *testing.F) {
	seed, err := proto.Marshal(encodeOrders(Orders{Volume: journal.VolumeID{1}, Term: 2, Revision: 3, Group: "prod/shop", Role: Primary, Window: time.Hour,
		JournalBytes: 1 << 30, History: "1s:1h,1m:24h", Writable: true, SizeBytes: 1 << 20, Attach: &Attach{BlockBytes: 512}, Peer: &Peer{Site: "b", Address: "b:1"}}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:len(seed)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(enginev1.OrderRequest)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		o, err := decodeOrders(m)
		if err != nil {
			return
		}
		if again, err := decodeOrders(encodeOrders(o)); err != nil || !reflect.DeepEqual(again, o) {
			t.Fatalf("%+v becomes %+v, %v", o, again, err)
		}
	})
}

// FuzzState: what a controller takes from an engine survives being told on.
func FuzzState(f *testing.F) {
	at := journal.Position{Timeline: 7, Seq: 9}
	checkpoint := journal.Checkpoint{Number: 3, Time: time.Unix(1, 0).UTC(), Position: at, CheckpointInfo: journal.CheckpointInfo{Group: "prod/shop", Members: []journal.VolumeID{{1}}}}
	seed, err := proto.Marshal(encodeState(State{Volume: journal.VolumeID{1}, Incarnation: "x", Version: "1", Store: &StoreState{SizeBytes: 1 << 20, Tip: at, Durable: at, Horizon: at,
		Timelines: []journal.Timeline{{ID: 7, Created: time.Unix(1, 0).UTC()}}, Pins: map[string]journal.Position{"p": at}, Newest: checkpoint, Oldest: checkpoint,
		Thinning: journal.ThinningStats{ReadBytes: 1 << 30, WrittenBytes: 1 << 20, Tiers: []journal.TierBytes{{Bytes: 1 << 26}, {Interval: time.Minute, Bytes: 1 << 20}, {Interval: math.MaxInt64, Bytes: 5}}},
		Points:   []journal.TierPoints{{Tier: journal.Tier{Interval: time.Second, Age: time.Hour}, Points: 3600, Oldest: time.Unix(1, 0).UTC()}, {Tier: journal.Tier{Interval: time.Minute, Age: 24 * time.Hour}}}, ShortByBytes: 7, Space: journal.SpaceStats{Refused: 3, GivenUpBytes: 1 << 26, PointsGivenUp: 1}},
		Replication: &ReplicationState{Peer: "b", LagTime: time.Second}}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:len(seed)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(enginev1.State)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		s, err := decodeState(m)
		if err != nil {
			return
		}
		// Once told on, a state has the one form that it keeps.
		once, err := decodeState(encodeState(s))
		if err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
		if twice, err := decodeState(encodeState(once)); err != nil || !reflect.DeepEqual(twice, once) {
			t.Fatalf("%+v becomes %+v, %v", once, twice, err)
		}
	})
}
