package v1alpha1

import (
	"testing"
	"time"
)

func TestDurationRoundTrip(t *testing.T) {
	const day = 24 * time.Hour
	cases := map[Duration]time.Duration{
		"0s":      0,
		"500µs":   500 * time.Microsecond,
		"100ms":   100 * time.Millisecond,
		"1s":      time.Second,
		"1m":      time.Minute,
		"1m30s":   90 * time.Second,
		"10m":     10 * time.Minute,
		"1h":      time.Hour,
		"1h10m":   70 * time.Minute,
		"23h0m1s": 23*time.Hour + time.Second,
		"1d":      day,
		"25h":     25 * time.Hour,
		"3650d":   3650 * day,
	}
	for text, want := range cases {
		if got, err := text.Parse(); err != nil || got != want {
			t.Errorf("parse %q: got %v, %v, want %v", text, got, err, want)
		}
		if got := DurationOf(want); got != text {
			t.Errorf("duration of %v: got %q, want %q", want, got, text)
		}
	}
}

func TestDurationParseRefuses(t *testing.T) {
	for _, text := range []Duration{"d", "1", "1.5d", "-1d", "65536d", "day", "1w", "1h1d"} {
		if got, err := text.Parse(); err == nil {
			t.Errorf("parse %q: got %v, want an error", text, got)
		}
	}
}

func TestDurationUnset(t *testing.T) {
	if got, err := Duration("").Parse(); err != nil || got != 0 {
		t.Errorf("got %v, %v, want 0", got, err)
	}
}
