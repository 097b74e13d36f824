package objectdb

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
)

// checksum tells an edit of an object's data. It is no protection from someone
// who wants to deceive.
func checksum(data map[string]string, binaryData map[string][]byte, sequence uint64) string {
	sum := sha256.New()
	hashUint(sum, sequence)
	for _, key := range slices.Sorted(maps.Keys(data)) {
		hashText(sum, key)
		hashText(sum, data[key])
	}
	hashUint(sum, 0)
	for _, key := range slices.Sorted(maps.Keys(binaryData)) {
		hashText(sum, key)
		hashText(sum, string(binaryData[key]))
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

func hashUint(sum hash.Hash, n uint64) {
	sum.Write(binary.BigEndian.AppendUint64(nil, n))
}

func hashText(sum hash.Hash, text string) {
	hashUint(sum, uint64(len(text))+1)
	sum.Write([]byte(text))
}

// verify checks an object's checksum and returns its sequence, also beside an
// error if it has one. An object without a checksum is taken as it is.
func verify(object *corev1.ConfigMap) (uint64, error) {
	sequence, err := strconv.ParseUint(object.Annotations[annotationSequence], 10, 64)
	if err != nil {
		return 0, damaged(object, "its annotation "+annotationSequence+" is no number")
	}
	sum, ok := object.Annotations[annotationChecksum]
	if ok && sum != checksum(object.Data, object.BinaryData, sequence) {
		return sequence, damaged(object, "it was edited")
	}
	return sequence, nil
}

func damaged(object *corev1.ConfigMap, what string) error {
	return fmt.Errorf("%w: ConfigMap %s/%s: %s; undo the edit, or, if it is meant, remove the annotation %s",
		ErrDamaged, object.Namespace, object.Name, what, annotationChecksum)
}
