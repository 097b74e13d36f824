package main

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const (
	atLatest = "latest"
	pinMark  = "pin:"
	atForms  = "want an RFC 3339 time (2026-11-22T10:41:07Z), a checkpoint number (1234), latest, or pin:NAME"
)

// withoutZone recognises the most frequent slip, a time that does not say
// where it is meant.
var withoutZone = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?$`)

func registerAt(command *cobra.Command, at *string, value, usage string) {
	command.Flags().StringVar(at, "at", value, usage+": RFC 3339 time, checkpoint number, latest, or pin:NAME")
}

// parseAt checks a moment that a person named and returns it as the admin API
// takes it: a time in UTC, a decimal number, "latest" or "pin:NAME".
func parseAt(text string) (string, error) {
	switch {
	case text == "":
		return "", misuse("--at is missing: %s", atForms)
	case text == atLatest:
		return text, nil
	case strings.HasPrefix(text, pinMark):
		if text == pinMark {
			return "", misuse("--at pin: names no pin: see `point list`")
		}
		return text, nil
	}
	if number, err := strconv.ParseUint(text, 10, 64); err == nil {
		return strconv.FormatUint(number, 10), nil
	}
	moment, err := parseTime("--at", text)
	if err != nil {
		return "", err
	}
	return moment.UTC().Format(time.RFC3339Nano), nil
}

// parseTime reads an RFC 3339 time, with or without a fraction of a second.
func parseTime(flag, text string) (time.Time, error) {
	moment, err := time.Parse(time.RFC3339Nano, text)
	switch {
	case err == nil:
		return moment, nil
	case withoutZone.MatchString(text):
		return time.Time{}, misuse("%s %q is not an RFC 3339 time, which names seconds and a time zone: want for instance %sZ", flag, text, completeTime(text))
	case flag == "--at":
		return time.Time{}, misuse("--at %q is not understood: %s", text, atForms)
	default:
		return time.Time{}, misuse("%s %q is not an RFC 3339 time, such as 2026-11-22T10:41:07Z", flag, text)
	}
}

// completeTime turns a time without a zone into what was probably meant, less
// the zone.
func completeTime(text string) string {
	text = strings.Replace(text, " ", "T", 1)
	if strings.Count(text, ":") == 1 {
		text += ":00"
	}
	return text
}
