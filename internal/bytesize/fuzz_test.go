package bytesize

import (
	"errors"
	"testing"
)

// FuzzParse: a size is within bounds, or refused.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"20Mi", "1k", "4611686018427387904", "9223372036854775807", "-1", "+1Ki", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := Parse(text)
		if err == nil && (n < 0 || n > 1<<62) || err != nil && !errors.Is(err, ErrSyntax) {
			t.Fatalf("%q is %d, %v", text, n, err)
		}
	})
}
