package roleflags

import "testing"

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "134217728": 128 << 20, "128Mi": 128 << 20, "1Ki": 1 << 10, "2Gi": 2 << 30, "128M": 128e6, "5k": 5e3, "1G": 1e9,
		"": -1, "Mi": -1, "-1": -1, "1.5Gi": -1, "much": -1, "128mi": -1, "1 Mi": -1, "9223372036854775807Gi": -1, "9223372036854775808": -1,
	} {
		n, ok := parseBytes(text)
		if !ok {
			n = -1
		}
		if n != want {
			t.Errorf("%q: got %d, want %d", text, n, want)
		}
	}
}
