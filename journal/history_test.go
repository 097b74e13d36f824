package journal

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseHistory(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]History{
		"":                       nil,
		"1s:1h":                  {{time.Second, time.Hour}},
		"1s:1h,1m:24h,1h:7d":     {{time.Second, time.Hour}, {time.Minute, day}, {time.Hour, 7 * day}},
		" 100ms:90m, 1h30m:10d ": {{100 * time.Millisecond, 90 * time.Minute}, {90 * time.Minute, 10 * day}},
		"1s:1h,1d:365d":          {{time.Second, time.Hour}, {day, 365 * day}},
	} {
		got, err := ParseHistory(text)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q is %v, %v, want %v", text, got, err, want)
		}
		again, err := ParseHistory(got.String())
		if err != nil || !slices.Equal(again, want) {
			t.Errorf("%q, as printed, is %v, %v, want %v", got.String(), again, err, want)
		}
	}
	for text, reason := range map[string]string{
		"1h":                     "INTERVAL:AGE",
		"1s:1h,":                 "INTERVAL:AGE",
		"1s-1h":                  "INTERVAL:AGE",
		"x:1h":                   "INTERVAL:AGE",
		"1s:200000d":             "INTERVAL:AGE",
		"-1s:1h":                 "must rise",
		"0s:1h":                  "must rise",
		"1s:1h,1m:1h":            "must rise",
		"1m:1h,1s:2h":            "must rise",
		"1s:1h,1m:24h,90s:7d":    "multiple",
		"2h:1h":                  "longer than its age",
		strings.Repeat("1s,", 9): "INTERVAL:AGE",
		"1s:1h,2s:2h,4s:3h,8s:4h,16s:5h,32s:6h,64s:7h,128s:8h,256s:9h": "at most 8",
	} {
		if h, err := ParseHistory(text); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q is %v, %v, want an error with %q", text, h, err, reason)
		}
	}
}

func FuzzParseHistory(f *testing.F) {
	for _, text := range []string{"", "1s:1h,1m:24h,1h:7d", "100ms:90m", "1d:2d,3d:4d", "9999999d:1h", ":,:"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseHistory(text)
		if err != nil {
			return
		}
		if err := h.Validate(); err != nil {
			t.Fatalf("%q became %v: %v", text, h, err)
		}
		if again, err := ParseHistory(h.String()); err != nil || !slices.Equal(again, h) {
			t.Fatalf("%v is printed as %q, which is %v, %v", h, h.String(), again, err)
		}
	})
}

// What is kept at one time is among what was kept at every time before it, and
// dropping the rest does not change the choice: it may be made at any moments.
func TestKeptPointsAreStable(t *testing.T) {
	h, err := ParseHistory("1s:10s,4s:1m,1m:10m")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Unix(1_000_000_007, 0)
	choose := func(from []Checkpoint, now time.Time) (kept []Checkpoint) {
		for i := range from {
			var before *Checkpoint
			if i > 0 {
				before = &from[i-1]
			}
			if beginsInterval(before, &from[i], h.intervalAt(now.Sub(from[i].Time))) {
				kept = append(kept, from[i])
			}
		}
		return kept
	}
	var all, thinned []Checkpoint
	clock := start
	for i := range 1200 {
		clock = clock.Add(time.Duration(1+i%7) * 300 * time.Millisecond)
		if i == 700 {
			clock = clock.Add(-20 * time.Second) // the machine's clock was set
		}
		c := Checkpoint{Number: CheckpointNumber(i + 1), Time: clock}
		all, thinned = append(all, c), append(thinned, c)
		if i%13 == 0 || i > 690 && i < 720 {
			thinned = choose(thinned, clock)
		}
	}
	number := func(c Checkpoint) CheckpointNumber { return c.Number }
	numbers := func(from []Checkpoint) (out []CheckpointNumber) {
		for _, c := range from {
			out = append(out, number(c))
		}
		return out
	}
	want, got := numbers(choose(all, clock)), numbers(choose(thinned, clock))
	if !slices.Equal(got, want) || len(want) < 30 || len(want) > 200 {
		t.Errorf("thinned now and then there are %v, thinned once %v", got, want)
	}
}
