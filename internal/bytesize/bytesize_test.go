package bytesize

import (
	"errors"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "134217728": 128 << 20, "128Mi": 128 << 20, "1Ki": 1 << 10, "2Gi": 2 << 30, "3Ti": 3 << 40, "4Pi": 4 << 50,
		"128M": 128e6, "5k": 5e3, "1G": 1e9, "2T": 2e12, "3P": 3e15, "4611686018427387904": 1 << 62,
		"": -1, "Mi": -1, "-1": -1, "1.5Gi": -1, "much": -1, "128mi": -1, "1 Mi": -1, "9223372036854775807Gi": -1, "4611686018427387905": -1,
		"9223372036854775808": -1,
	} {
		n, err := Parse(text)
		if err != nil {
			if n = -1; !errors.Is(err, ErrSyntax) {
				t.Errorf("%q: %v", text, err)
			}
		}
		if n != want {
			t.Errorf("%q: got %d, want %d", text, n, want)
		}
	}
}
