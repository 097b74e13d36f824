package catalog

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

func update(t *testing.T, c *Catalog, fn func(*Tx) error) {
	t.Helper()
	if err := c.Update(fn); err != nil {
		t.Fatal(err)
	}
}

func view(t *testing.T, c *Catalog, fn func(*Tx) error) {
	t.Helper()
	if err := c.View(fn); err != nil {
		t.Fatal(err)
	}
}

func TestRecordsReadBack(t *testing.T) {
	id := journal.VolumeID{1, 2}
	volume := Volume{
		ID: id, Name: "Größe", State: StateReady, SizeBytes: 1 << 30, ExpandTo: 1 << 31, Group: "shop", BlockBytes: 4096, FSType: "xfs",
		Parameters: map[string]string{"group": "shop"}, Mutable: map[string]string{"window": "1h"},
		Source:  &Source{Snapshot: "s", Pin: "p", Member: id},
		Publish: &Publish{State: PublishActive, Node: "n", ReadOnly: true, Block: true, Mode: "SINGLE_NODE_WRITER"},
	}
	pin := Pin{
		Name: "p", Group: "shop", State: StateReady, OwnerKind: OwnerGroupSnapshot, OwnerID: "g", AsOf: "7",
		Checkpoint: 7, Time: time.Date(2026, 11, 22, 10, 0, 0, 1, time.UTC), Members: map[journal.VolumeID]int64{id: 1 << 30},
	}
	snapshots := GroupSnapshot{ID: "g", Name: "both", Pin: "p", Sources: []journal.VolumeID{id}, Snapshots: []string{"s"}}
	settings := group.Settings{Window: time.Hour}
	shop := Group{Name: "shop", Settings: group.Settings{}.WithDefaults(), Pending: &settings}

	c := New(kv.NewMemory())
	update(t, c, func(tx *Tx) error {
		return errors.Join(tx.PutVolume(volume), tx.PutPin(pin), tx.PutGroupSnapshot(snapshots), tx.PutGroup(shop))
	})
	view(t, c, func(tx *Tx) error {
		gotVolume, err1 := tx.VolumeNamed(volume.Name)
		gotPin, err2 := tx.Pin("p")
		gotSnapshots, err3 := tx.GroupSnapshot("g")
		gotGroup, err4 := tx.Group("shop")
		member, err5 := tx.Snapshot("s")
		for _, pair := range [][2]any{{gotVolume, volume}, {gotPin, pin}, {gotSnapshots, snapshots}, {gotGroup, shop},
			{member, Snapshot{ID: "s", Name: "both", Pin: "p", Source: id, GroupSnapshot: "g"}}} {
			if !reflect.DeepEqual(pair[0], pair[1]) {
				t.Errorf("got %+v, want %+v", pair[0], pair[1])
			}
		}
		return errors.Join(err1, err2, err3, err4, err5)
	})
	update(t, c, func(tx *Tx) error { return errors.Join(tx.RemovePin(pin), tx.RemovePin(pin), tx.DeleteGroup("shop")) })
	view(t, c, func(tx *Tx) error {
		_, err1 := tx.Pin("p")
		_, err2 := tx.GroupSnapshot("g")
		_, err3 := tx.Snapshot("s")
		_, err4 := tx.Group("shop")
		for _, err := range []error{err1, err2, err3, err4} {
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("a removed record: %v, want ErrNotFound", err)
			}
		}
		return nil
	})
}

// TestNamesOfRetiredVolumesAreFree retires a volume and gives its name to
// another, which must keep it when the retired one is deleted.
func TestNamesOfRetiredVolumesAreFree(t *testing.T) {
	old := Volume{ID: journal.VolumeID{1}, Name: "data", State: StateReady}
	next := Volume{ID: journal.VolumeID{2}, Name: "data", State: StateCreating}
	c := New(kv.NewMemory())
	named := func(want journal.VolumeID) {
		t.Helper()
		view(t, c, func(tx *Tx) error {
			got, err := tx.VolumeNamed("data")
			if want.IsZero() != errors.Is(err, ErrNotFound) || got.ID != want {
				t.Errorf("the name leads to %s, %v, want %s", got.ID, err, want)
			}
			return nil
		})
	}
	update(t, c, func(tx *Tx) error { return tx.PutVolume(old) })
	named(old.ID)
	old.State = StateRetired
	update(t, c, func(tx *Tx) error { return tx.PutVolume(old) })
	named(journal.VolumeID{})
	update(t, c, func(tx *Tx) error { return tx.PutVolume(next) })
	named(next.ID)
	view(t, c, func(tx *Tx) error {
		retired, err := tx.RetiredVolumes()
		if len(retired) != 1 || retired[0].ID != old.ID {
			t.Errorf("retired are %v", retired)
		}
		return err
	})
	update(t, c, func(tx *Tx) error { return tx.DeleteVolume(old) })
	named(next.ID)
	update(t, c, func(tx *Tx) error { return errors.Join(tx.DeleteVolume(next), tx.DeleteVolume(next)) })
	named(journal.VolumeID{})
	view(t, c, func(tx *Tx) error {
		retired, err := tx.RetiredVolumes()
		if len(retired) != 0 {
			t.Errorf("retired are %v", retired)
		}
		return err
	})
}

func TestEachVolumeGoesOnBehind(t *testing.T) {
	c := New(kv.NewMemory())
	update(t, c, func(tx *Tx) error {
		for i := range byte(4) {
			if err := tx.PutVolume(Volume{ID: journal.VolumeID{i}, Name: string('a' + rune(i))}); err != nil {
				return err
			}
		}
		return tx.DeleteVolume(Volume{ID: journal.VolumeID{1}, Name: "b"})
	})
	for _, test := range []struct {
		after string
		want  string
	}{{"", "acd"}, {journal.VolumeID{0}.String(), "cd"}, {journal.VolumeID{1}.String(), "cd"}, {journal.VolumeID{3}.String(), ""}} {
		var got string
		view(t, c, func(tx *Tx) error {
			return tx.EachVolume(test.after, func(v Volume) bool { got += v.Name; return true })
		})
		if got != test.want {
			t.Errorf("behind %q are %q, want %q", test.after, got, test.want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		value string
		want  error
	}{
		"newer":      {`{"version":2,"record":{}}`, ErrVersion},
		"no version": {`{"record":{}}`, ErrVersion},
		"cut short":  {`{"version":1,"rec`, ErrCorrupt},
		"other type": {`{"version":1,"record":[]}`, ErrCorrupt},
		"bad id":     {`{"version":1,"record":{"id":"xyz"}}`, ErrCorrupt},
		"empty":      {``, ErrCorrupt},
	} {
		db := kv.NewMemory()
		id := journal.VolumeID{1}
		err := db.Update(func(tx kv.Tx) error { return tx.Put(bucketVolumes, []byte(id.String()), []byte(test.value)) })
		if err != nil {
			t.Fatal(err)
		}
		view(t, New(db), func(tx *Tx) error {
			if _, err := tx.Volume(id); !errors.Is(err, test.want) {
				t.Errorf("%s: %v, want %v", name, err, test.want)
			}
			if err := tx.EachVolume("", func(Volume) bool { return true }); !errors.Is(err, test.want) {
				t.Errorf("%s in a list: %v, want %v", name, err, test.want)
			}
			return nil
		})
	}
}

// TestVersionOneStaysReadable is a record as the first version wrote it.
func TestVersionOneStaysReadable(t *testing.T) {
	const stored = `{"version":1,"record":{"id":"01020000000000000000000000000000","name":"data","state":"ready",` +
		`"sizeBytes":1073741824,"group":"shop","blockBytes":512,"publish":{"state":"active","node":"n","readOnly":false,"block":true,"mode":"SINGLE_NODE_WRITER"}}}`
	want := Volume{
		ID: journal.VolumeID{1, 2}, Name: "data", State: StateReady, SizeBytes: 1 << 30, Group: "shop", BlockBytes: 512,
		Publish: &Publish{State: PublishActive, Node: "n", Block: true, Mode: "SINGLE_NODE_WRITER"},
	}
	var got Volume
	if err := decode(bucketVolumes, nil, []byte(stored), &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	encoded, err := encode(want)
	if err != nil || string(encoded) != stored {
		t.Errorf("written today as %s, %v", encoded, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"version":1,"record":{"id":"01020000000000000000000000000000"}}`))
	f.Add([]byte(`{"version":1,"record":null}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		var v Volume
		err := decode(bucketVolumes, []byte("k"), value, &v)
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			t.Errorf("%v is neither ErrCorrupt nor ErrVersion", err)
		}
		if err == nil {
			again, err := encode(v)
			if err != nil {
				t.Fatal(err)
			}
			var back Volume
			if err := decode(bucketVolumes, []byte("k"), again, &back); err != nil || !reflect.DeepEqual(v, back) {
				t.Errorf("%+v was read back as %+v, %v", v, back, err)
			}
		}
	})
}
