package main

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// unknown stands in tables for what a site did not say.
const unknown = "-"

const (
	day = 24 * time.Hour

	// tableTime shows milliseconds: points are never closer than that.
	tableTime = "2006-01-02T15:04:05.000Z07:00"
)

// span writes a duration in at most two units, exact enough for a decision:
// 340ms, 3s, 9m12s, 12m, 1h35m, 30h, 12d. It rounds down.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Millisecond && d > 0:
		return fmt.Sprintf("%dµs", d.Microseconds())
	case d < time.Second && d > 0:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 10*time.Minute:
		return twoUnits(d, time.Minute, "m", time.Second, "s")
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 10*time.Hour:
		return twoUnits(d, time.Hour, "h", time.Minute, "m")
	case d < 2*day:
		return fmt.Sprintf("%dh", d/time.Hour)
	default:
		return fmt.Sprintf("%dd", d/day)
	}
}

func twoUnits(d, big time.Duration, bigName string, small time.Duration, smallName string) string {
	rest := (d % big) / small
	if rest == 0 {
		return fmt.Sprintf("%d%s", d/big, bigName)
	}
	return fmt.Sprintf("%d%s%d%s", d/big, bigName, rest, smallName)
}

func spanOf(d *durationpb.Duration) string {
	if d == nil {
		return unknown
	}
	return span(d.AsDuration())
}

// age is the time since t, by the clock of this machine, which is the site's:
// the admin socket is local.
func age(now time.Time, t *timestamppb.Timestamp) string {
	if t == nil {
		return unknown
	}
	return span(now.Sub(t.AsTime()).Truncate(time.Second))
}

// moment writes a time for people. It rounds up, so that a time copied from a
// table into --at, which takes the newest point at or before it, means the
// point it was shown for and not the one before.
func moment(t *timestamppb.Timestamp) string {
	if t == nil {
		return unknown
	}
	return t.AsTime().Add(time.Millisecond - time.Nanosecond).Truncate(time.Millisecond).UTC().Format(tableTime)
}

// iec writes a byte count in binary units with up to three digits: 512 B,
// 4.0 KiB, 48 KiB, 1.5 GiB.
func iec(bytes uint64) string {
	if bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	value, unit := float64(bytes)/1024, 0
	const units = "KMGTPE"
	// 1023.5 and more would be shown as 1024 of the smaller unit.
	for value >= 1023.5 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	digits := 0
	if value < 9.95 {
		digits = 1
	}
	return fmt.Sprintf("%.*f %ciB", digits, value, units[unit])
}

func iecSigned(bytes int64) string {
	if bytes < 0 {
		return unknown
	}
	return iec(uint64(bytes))
}
