package journal

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// History says which checkpoints are kept, by age: tiers of which each keeps the
// first checkpoint of every Interval up to Age. The first tier keeps
// everything; one tier, or none, thins nothing.
//
// Intervals are aligned to 1970 in the checkpoints' own time, and a checkpoint
// is the first of its interval if the one before it on the path is in another.
// Nothing else goes into the choice, so that the members of a group, and their
// replicas, keep the same checkpoints without talking to each other. Each
// interval is a multiple of the one before, so that what a tier keeps the
// younger tiers have kept.
type History []Tier

// Tier is one part of a History.
type Tier struct {
	Interval time.Duration
	Age      time.Duration // how old what the tier keeps is at most
}

// maxTiers bounds a history.
const maxTiers = 8

// ParseHistory reads the text form, INTERVAL:AGE,INTERVAL:AGE,…, for example
// "1s:1h,1m:24h,1h:7d". Durations are those of time.ParseDuration, or whole
// days as "7d". The result is valid; an empty text is no history.
func ParseHistory(text string) (History, error) {
	if text == "" {
		return nil, nil
	}
	var h History
	for _, part := range strings.Split(text, ",") {
		interval, age, ok := strings.Cut(strings.TrimSpace(part), ":")
		var t Tier
		var err error
		if ok {
			if t.Interval, err = parseDays(interval); err == nil {
				t.Age, err = parseDays(age)
			}
		}
		if !ok || err != nil {
			return nil, fmt.Errorf("parse history %q: %q is not INTERVAL:AGE, as in 1m:24h", text, part)
		}
		h = append(h, t)
	}
	if err := h.Validate(); err != nil {
		return nil, fmt.Errorf("parse history %q: %w", text, err)
	}
	return h, nil
}

// maxDays is what a time.Duration can hold, nearly.
const maxDays = 100_000

func parseDays(text string) (time.Duration, error) {
	if digits, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || n > maxDays {
			return 0, fmt.Errorf("parse duration %q: want at most %d days", text, maxDays)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	return time.ParseDuration(text)
}

// String returns the form that ParseHistory reads.
func (h History) String() string {
	var parts []string
	for _, t := range h {
		parts = append(parts, formatDays(t.Interval)+":"+formatDays(t.Age))
	}
	return strings.Join(parts, ",")
}

func formatDays(d time.Duration) string {
	const day = 24 * time.Hour
	if d > day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// Validate checks that intervals and ages rise, that each interval is a
// multiple of the one before and not longer than its tier's age.
func (h History) Validate() error {
	if len(h) > maxTiers {
		return fmt.Errorf("history has %d tiers, want at most %d", len(h), maxTiers)
	}
	var before Tier
	for _, t := range h {
		switch {
		case t.Interval <= before.Interval || t.Age <= before.Age:
			return fmt.Errorf("tier %s: intervals and ages must rise", History{t})
		case before.Interval > 0 && t.Interval%before.Interval != 0:
			return fmt.Errorf("tier %s: its interval must be a multiple of %s, that of the tier before", History{t}, formatDays(before.Interval))
		case t.Interval > t.Age:
			return fmt.Errorf("tier %s: its interval is longer than its age", History{t})
		}
		before = t
	}
	return nil
}

// Window is the last tier's age; 0 without tiers.
func (h History) Window() time.Duration {
	if len(h) == 0 {
		return 0
	}
	return h[len(h)-1].Age
}

// thins reports whether anything is ever dropped.
func (h History) thins() bool { return len(h) > 1 }

// intervalAt is the interval of which one checkpoint is kept at an age; 0 keeps
// everything. What is older than all tiers waits to be destaged, in the last.
func (h History) intervalAt(age time.Duration) time.Duration {
	if !h.thins() || age <= h[0].Age {
		return 0
	}
	i, _ := slices.BinarySearchFunc(h, age, func(t Tier, age time.Duration) int { return cmp.Compare(t.Age, age) })
	return h[min(i, len(h)-1)].Interval
}

// sameInterval reports whether two times lie in one aligned interval.
func sameInterval(a, b time.Time, interval time.Duration) bool {
	return a.UnixNano()/int64(interval) == b.UnixNano()/int64(interval)
}

// beginsInterval reports whether a checkpoint is the first of its interval;
// before is the one before it on the path, nil if there is none.
func beginsInterval(before *Checkpoint, c *Checkpoint, interval time.Duration) bool {
	return interval == 0 || before == nil || !sameInterval(before.Time, c.Time, interval)
}
