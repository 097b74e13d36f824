package objectdb

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// FuzzCommit: a commit object that anybody may have edited is a commit, or named as
// damaged; with and without the checksum that tells.
func FuzzCommit(f *testing.F) {
	object, err := encodeCommit("db", "1", commit{owner: "a", writer: "a", sequence: 4, slots: 3,
		changes: []change{{slot: 0}, {slot: 1, entry: entry{bucket: "volumes", key: "k", value: []byte("v")}}, {slot: 2, entry: entry{bucket: "volumes", key: "\x00", value: []byte{0xff}}}}})
	if err != nil {
		f.Fatal(err)
	}
	seed, err := json.Marshal(object)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		object := new(corev1.ConfigMap)
		if json.Unmarshal(b, object) != nil {
			return
		}
		if _, err := decodeCommit(object); err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatalf("error of no kind: %v", err)
		}
		delete(object.Annotations, annotationChecksum)
		c, err := decodeCommit(object)
		if err != nil {
			return
		}
		again, err := encodeCommit("db", "1", c)
		if errors.Is(err, ErrTooBig) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		back, err := decodeCommit(again)
		if err != nil || back.owner != c.owner || back.slots != c.slots || back.sequence != c.sequence || len(back.changes) != len(c.changes) {
			t.Fatalf("%+v becomes %+v, %v", c, back, err)
		}
		for i, ch := range c.changes {
			if !ch.free() && (back.changes[i].key != ch.key || string(back.changes[i].value) != string(ch.value)) || back.changes[i].slot != ch.slot || !reflect.DeepEqual(ch.bucket, back.changes[i].bucket) {
				t.Fatalf("change %+v becomes %+v", ch, back.changes[i])
			}
		}
	})
}
