package v1alpha1

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time as StorageClass parameters have it: 500ms, 1m30s,
// 24h, or whole days such as 7d.
//
// +kubebuilder:validation:MaxLength=32
// +kubebuilder:validation:Pattern=`^([0-9]{1,5}d|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$`
type Duration string

// DurationOf writes d in its shortest form: whole days as days, and no units
// of zero at the end.
func DurationOf(d time.Duration) Duration {
	const day = 24 * time.Hour
	if d != 0 && d%day == 0 {
		return Duration(strconv.FormatInt(int64(d/day), 10) + "d")
	}
	text := d.String()
	if d != 0 && d%time.Minute == 0 {
		text = strings.TrimSuffix(text, "0s")
	}
	if d != 0 && d%time.Hour == 0 {
		text = strings.TrimSuffix(text, "0m")
	}
	return Duration(text)
}

// Parse returns the length of time; an empty Duration is 0. It checks the form
// and no range, which is the resources' business.
func (d Duration) Parse() (time.Duration, error) {
	if d == "" {
		return 0, nil
	}
	if days, isDays := strings.CutSuffix(string(d), "d"); isDays {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("parse duration %q: want whole days below 65536 such as 7d", string(d))
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	parsed, err := time.ParseDuration(string(d))
	if err != nil {
		return 0, fmt.Errorf("parse duration %q: want for example 500ms, 24h or 7d", string(d))
	}
	return parsed, nil
}
