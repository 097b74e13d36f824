package objectdb

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

const (
	labelDatabase      = "lockstep.dev/database"
	labelBucket        = "lockstep.dev/bucket"
	annotationSequence = "lockstep.dev/sequence"
	annotationChecksum = "lockstep.dev/checksum"

	kindEntry  = "entry"
	kindCommit = "commit"

	fieldBucket = "bucket"
	fieldKey    = "key"
	fieldKeyHex = "keyHex"
	fieldValue  = "value"
)

// entry is the content of one slot. Without a bucket the slot is free.
type entry struct {
	bucket, key string
	value       []byte
}

func (e entry) free() bool { return e.bucket == "" }

func (e entry) equal(other entry) bool {
	return e.bucket == other.bucket && e.key == other.key && string(e.value) == string(other.value)
}

// slotName is the object of a slot.
func slotName(database string, slot int) string { return fmt.Sprintf("%s-%06d", database, slot) }

// slotOf is the opposite of slotName.
func slotOf(database, name string) (int, error) {
	digits, ok := strings.CutPrefix(name, database+"-")
	slot, err := strconv.Atoi(digits)
	if !ok || err != nil || slot < 0 || slotName(database, slot) != name {
		return 0, fmt.Errorf("%w: object %s has no name of a slot: delete it or take its label %s away", ErrDamaged, name, kubenames.LabelCatalog)
	}
	return slot, nil
}

// encodeEntry returns the object for a slot.
func encodeEntry(database string, slot int, sequence uint64, e entry) *corev1.ConfigMap {
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name:   slotName(database, slot),
		Labels: map[string]string{kubenames.LabelCatalog: kindEntry, labelDatabase: database},
	}}
	if !e.free() {
		object.Data = map[string]string{fieldBucket: e.bucket}
		if readable(e.key) {
			object.Data[fieldKey] = e.key
		} else {
			object.Data[fieldKeyHex] = hex.EncodeToString([]byte(e.key))
		}
		if utf8.Valid(e.value) {
			object.Data[fieldValue] = string(e.value)
		} else {
			object.BinaryData = map[string][]byte{fieldValue: e.value}
		}
		if len(validation.IsValidLabelValue(e.bucket)) == 0 {
			object.Labels[labelBucket] = e.bucket
		}
	}
	object.Annotations = map[string]string{
		annotationSequence: strconv.FormatUint(sequence, 10),
		annotationChecksum: checksum(object.Data, object.BinaryData, sequence),
	}
	return object
}

// decodeEntry reads an object, and what number the commit had that it is of.
// An object without a checksum was edited on purpose; one whose checksum does
// not fit is ErrDamaged, which may come with the number.
func decodeEntry(object *corev1.ConfigMap) (entry, uint64, error) {
	sequence, err := verify(object)
	if err != nil {
		return entry{}, sequence, err
	}
	e := entry{bucket: object.Data[fieldBucket], key: object.Data[fieldKey]}
	if e.free() {
		return entry{}, sequence, nil
	}
	if digits, ok := object.Data[fieldKeyHex]; ok {
		key, err := hex.DecodeString(digits)
		if err != nil {
			return entry{}, sequence, damaged(object, "its keyHex is not hexadecimal")
		}
		e.key = string(key)
	}
	if e.key == "" {
		return entry{}, sequence, damaged(object, "it has no key")
	}
	e.value = []byte(object.Data[fieldValue])
	if binary, ok := object.BinaryData[fieldValue]; ok {
		e.value = binary
	}
	return e, sequence, nil
}

// readable reports whether a key is shown as it is.
func readable(key string) bool {
	return utf8.ValidString(key) && strings.IndexFunc(key, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
