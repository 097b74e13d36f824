package objectdb

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

const (
	fieldOwner   = "owner"
	fieldWriter  = "writer"
	fieldSlots   = "slots"
	fieldChanges = "changes"
)

// commit is the content of the commit object.
type commit struct {
	// owner is the process that may write next.
	owner string
	// writer is the process that made the commit. With the sequence it names
	// the commit.
	writer string
	// sequence counts commits; 0 while there was none.
	sequence uint64
	// slots is how many objects of entries there are, behind this commit.
	slots   int
	changes []change
}

// change is what a commit makes of one slot.
type change struct {
	slot int
	entry
}

// changeJSON is the stored form of a change. A free slot has no bucket.
type changeJSON struct {
	Slot     int     `json:"slot"`
	Bucket   string  `json:"bucket,omitempty"`
	Key      string  `json:"key,omitempty"`
	KeyHex   string  `json:"keyHex,omitempty"`
	Value    *string `json:"value,omitempty"`
	ValueHex string  `json:"valueHex,omitempty"`
}

func commitName(database string) string { return database + "-commit" }

// encodeCommit returns the object; ErrTooBig if it would be too big.
func encodeCommit(database, version string, c commit) (*corev1.ConfigMap, error) {
	list := make([]changeJSON, len(c.changes))
	for i, ch := range c.changes {
		list[i] = encodeChange(ch)
	}
	changes, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("encode commit: %w", err)
	}
	if len(changes) > maxCommitBytes {
		return nil, fmt.Errorf("%w: %d changes have %d bytes, want at most %d", ErrTooBig, len(list), len(changes), maxCommitBytes)
	}
	object := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Name:            commitName(database),
			ResourceVersion: version,
			Labels:          map[string]string{kubenames.LabelCatalog: kindCommit, labelDatabase: database},
		},
		Data: map[string]string{
			fieldOwner:   c.owner,
			fieldWriter:  c.writer,
			fieldSlots:   strconv.Itoa(c.slots),
			fieldChanges: string(changes),
		},
	}
	object.Annotations = map[string]string{
		annotationSequence: strconv.FormatUint(c.sequence, 10),
		annotationChecksum: checksum(object.Data, nil, c.sequence),
	}
	return object, nil
}

func encodeChange(ch change) changeJSON {
	if ch.free() {
		return changeJSON{Slot: ch.slot}
	}
	j := changeJSON{Slot: ch.slot, Bucket: ch.bucket}
	if readable(ch.key) {
		j.Key = ch.key
	} else {
		j.KeyHex = hex.EncodeToString([]byte(ch.key))
	}
	if utf8.Valid(ch.value) {
		text := string(ch.value)
		j.Value = &text
	} else {
		j.ValueHex = hex.EncodeToString(ch.value)
	}
	return j
}

func decodeCommit(object *corev1.ConfigMap) (commit, error) {
	sequence, err := verify(object)
	if err != nil {
		return commit{}, err
	}
	c := commit{owner: object.Data[fieldOwner], writer: object.Data[fieldWriter], sequence: sequence}
	if c.slots, err = strconv.Atoi(object.Data[fieldSlots]); err != nil || c.slots < 0 {
		return commit{}, damaged(object, "its slots are no number")
	}
	var list []changeJSON
	if err := json.Unmarshal([]byte(object.Data[fieldChanges]), &list); err != nil {
		return commit{}, damaged(object, fmt.Sprintf("its changes cannot be read: %v", err))
	}
	for _, j := range list {
		ch, err := decodeChange(j)
		if err != nil || ch.slot < 0 || ch.slot >= c.slots {
			return commit{}, damaged(object, fmt.Sprintf("its change of slot %d is not valid", j.Slot))
		}
		c.changes = append(c.changes, ch)
	}
	return c, nil
}

func decodeChange(j changeJSON) (change, error) {
	ch := change{slot: j.Slot, entry: entry{bucket: j.Bucket, key: j.Key}}
	if ch.free() {
		return ch, nil
	}
	if j.KeyHex != "" {
		key, err := hex.DecodeString(j.KeyHex)
		if err != nil {
			return change{}, err
		}
		ch.key = string(key)
	}
	if ch.key == "" {
		return change{}, fmt.Errorf("no key")
	}
	if j.Value != nil {
		ch.value = []byte(*j.Value)
		return ch, nil
	}
	value, err := hex.DecodeString(j.ValueHex)
	ch.value = value
	return ch, err
}
