package replication

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-csi/lockstep/journal"
)

func TestAttributesAreKept(t *testing.T) {
	told := map[string]string{AttributeNamespace: "shop", AttributeName: "pgdata", AttributeBlockBytes: "4096", "of a later version": "kept", "empty": ""}
	a, err := decodeAnnouncement(encodeAnnouncement(Announcement{Group: "shop", Term: 1,
		Members: []Member{{Volume: volumeOne, SizeBytes: modelBytes, Attributes: told}, {Volume: volumeTwo, SizeBytes: modelBytes}}}))
	must(t, err)
	if !maps.Equal(a.Members[0].Attributes, told) || len(a.Members[1].Attributes) != 0 {
		t.Errorf("got %v and %v, want %v and none", a.Members[0].Attributes, a.Members[1].Attributes, told)
	}
}

func TestAttributeLimits(t *testing.T) {
	many := func(n int) map[string]string {
		all := make(map[string]string)
		for i := range n {
			all[fmt.Sprint(i)] = ""
		}
		return all
	}
	long := strings.Repeat("k", MaxAttributeKeyBytes)
	for name, c := range map[string]struct {
		attributes map[string]string
		want       error
	}{
		"none":           {nil, nil},
		"most":           {many(MaxAttributes), nil},
		"too many":       {many(MaxAttributes + 1), ErrLimit},
		"longest key":    {map[string]string{long: ""}, nil},
		"key too long":   {map[string]string{long + "k": ""}, ErrLimit},
		"most bytes":     {map[string]string{"k": strings.Repeat("v", MaxAttributesBytes-attributeFrameBytes-1)}, nil},
		"too many bytes": {map[string]string{"k": strings.Repeat("v", MaxAttributesBytes-attributeFrameBytes)}, ErrLimit},
		"no key":         {map[string]string{"": "v"}, ErrProtocol},
		"not text":       {map[string]string{"k": "\xff"}, ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			req := encodeAnnouncement(Announcement{Group: "shop", Term: 1, Members: []Member{{Volume: volumeOne, SizeBytes: modelBytes, Attributes: c.attributes}}})
			_, err := decodeAnnouncement(req)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// TestFullAnnouncementIsOneMessage: what the limits allow can be sent.
func TestFullAnnouncementIsOneMessage(t *testing.T) {
	// Many short attributes take more room than few long ones.
	const each = MaxGroupAttributesBytes / MaxMembers
	attributes := make(map[string]string)
	for i := range MaxAttributes {
		attributes[fmt.Sprintf("%02d", i)] = strings.Repeat("v", each/MaxAttributes-attributeFrameBytes-2)
	}
	a := Announcement{Group: strings.Repeat("g", MaxNameBytes), Term: 1 << 63}
	for i := range MaxMembers {
		a.Members = append(a.Members, Member{Volume: journal.VolumeID{1, byte(i >> 8), byte(i)}, Name: strings.Repeat("n", MaxNameBytes),
			SizeBytes: MaxVolumeBytes, Attributes: attributes})
		a.Deleted = append(a.Deleted, journal.VolumeID{2, byte(i >> 8), byte(i)})
	}
	req := encodeAnnouncement(a)
	if size := proto.Size(req); size > MaxMessageBytes {
		t.Errorf("a full announcement has %d bytes, want at most %d", size, MaxMessageBytes)
	}
	_, err := decodeAnnouncement(req)
	must(t, err)
	req.Members[0].Attributes = map[string]string{"k": strings.Repeat("v", each)}
	if _, err := decodeAnnouncement(req); !errors.Is(err, ErrLimit) {
		t.Errorf("more attributes than a group may have: got %v, want ErrLimit", err)
	}
}
