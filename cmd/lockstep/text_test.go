package main

import (
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestParseAt(t *testing.T) {
	good := map[string]string{
		"latest":                       "latest",
		"0":                            "0",
		"1234":                         "1234",
		"0012":                         "12",
		"18446744073709551615":         "18446744073709551615",
		"pin:a b":                      "pin:a b",
		"2026-11-22T10:41:07Z":         "2026-11-22T10:41:07Z",
		"2026-11-22T10:41:07.25Z":      "2026-11-22T10:41:07.25Z",
		"2026-11-22T12:41:07+02:00":    "2026-11-22T10:41:07Z",
		"2026-11-22T10:41:07.0000001Z": "2026-11-22T10:41:07.0000001Z",
	}
	for in, want := range good {
		if got, err := parseAt(in); err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", in, got, err, want)
		}
	}
	bad := map[string]string{
		"":                      "--at is missing",
		"pin:":                  "names no pin",
		"Latest":                atForms,
		"-1":                    atForms,
		"18446744073709551616":  atForms,
		"1.5":                   atForms,
		"5m":                    atForms,
		"2026-13-22T10:41:07Z":  atForms,
		"2026-11-22T10:41:07":   "2026-11-22T10:41:07Z",
		"2026-11-22 10:41":      "2026-11-22T10:41:00Z",
		"2026-11-22 10:41:07.5": "2026-11-22T10:41:07.5Z",
	}
	for in, want := range bad {
		if got, err := parseAt(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, %v; want an error with %q", in, got, err, want)
		}
	}
}

func FuzzParseAt(f *testing.F) {
	for _, seed := range []string{"latest", "12", "pin:x", "2026-11-22T10:41:07.5+02:00", "2026-11-22 10:41", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		canonical, err := parseAt(text)
		if err != nil {
			return
		}
		again, err := parseAt(canonical)
		if err != nil || again != canonical {
			t.Errorf("%q becomes %q, which becomes %q, %v", text, canonical, again, err)
		}
	})
}

func TestSpan(t *testing.T) {
	cases := map[time.Duration]string{
		-time.Second:                    "0s",
		0:                               "0s",
		180 * time.Microsecond:          "180µs",
		340 * time.Millisecond:          "340ms",
		999999 * time.Microsecond:       "999ms",
		3 * time.Second:                 "3s",
		59999 * time.Millisecond:        "59s",
		time.Minute:                     "1m",
		552 * time.Second:               "9m12s",
		12*time.Minute + 40*time.Second: "12m",
		time.Hour:                       "1h",
		95 * time.Minute:                "1h35m",
		30*time.Hour + 59*time.Minute:   "30h",
		2 * day:                         "2d",
		12*day + 23*time.Hour:           "12d",
	}
	for in, want := range cases {
		if got := span(in); got != want {
			t.Errorf("%v: got %q, want %q", in, got, want)
		}
	}
}

func TestIEC(t *testing.T) {
	cases := map[uint64]string{
		0: "0 B", 512: "512 B", 1023: "1023 B", 1024: "1.0 KiB", 4096: "4.0 KiB", 10188: "9.9 KiB", 10200: "10 KiB", 49152: "48 KiB",
		1<<20 - 1: "1.0 MiB", 1 << 20: "1.0 MiB", 3 << 29: "1.5 GiB", 10 << 30: "10 GiB", 1 << 40: "1.0 TiB", 1<<64 - 1: "16 EiB",
	}
	for in, want := range cases {
		if got := iec(in); got != want {
			t.Errorf("%d: got %q, want %q", in, got, want)
		}
	}
}

func TestMomentRoundsUp(t *testing.T) {
	cases := map[time.Duration]string{
		0:                "2026-11-22T10:42:00.000Z",
		1:                "2026-11-22T10:42:00.001Z",
		time.Millisecond: "2026-11-22T10:42:00.001Z",
		time.Second - 1:  "2026-11-22T10:42:01.000Z",
	}
	for offset, want := range cases {
		if got := moment(timestamppb.New(epoch.Add(offset))); got != want {
			t.Errorf("%v: got %s, want %s", offset, got, want)
		}
	}
}

func TestColour(t *testing.T) {
	s := newShell(newFakeSite().serve(t))
	cases := map[string]struct {
		terminals terminals
		variables map[string]string
		want      bool
	}{
		"terminal": {atTerminal, nil, true},
		"pipe":     {terminals{}, nil, false},
		"NO_COLOR": {atTerminal, map[string]string{"NO_COLOR": "1"}, false},
		"dumb":     {atTerminal, map[string]string{"TERM": "dumb"}, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s.terminals = c.terminals
			for _, variable := range []string{"NO_COLOR", "TERM"} {
				s.variables[variable] = c.variables[variable]
			}
			got := s.must(t, "status")
			if strings.Contains(got, "\x1b[") != c.want {
				t.Errorf("colour %v, want %v:\n%q", !c.want, c.want, got)
			}
			if json := s.must(t, "status", "-o", "json"); strings.Contains(json, "\x1b") {
				t.Error("colour in JSON")
			}
		})
	}
}

// TestColourDoesNotMoveColumns compares a coloured page with the plain one.
func TestColourDoesNotMoveColumns(t *testing.T) {
	s := newShell(newFakeSite().serve(t))
	plain := s.must(t, "group", "describe", "shop")
	s.terminals = atTerminal
	coloured := s.must(t, "group", "describe", "shop")
	for _, code := range escapes {
		coloured = strings.ReplaceAll(coloured, "\x1b["+code+"m", "")
	}
	if coloured = strings.ReplaceAll(coloured, "\x1b[0m", ""); coloured != plain {
		t.Errorf("plain\n%s\ncoloured, without the colour\n%s", plain, coloured)
	}
}

func TestProgressIsForTerminals(t *testing.T) {
	site := newFakeSite()
	s := newShell(site.serve(t))
	const line = "opening a view of shop"

	// On a terminal the call is held until the line has been seen.
	site.hang = make(chan struct{})
	seen := sync.OnceFunc(func() { close(site.hang) })
	s.terminals = atTerminal
	s.watch = func(text string) {
		if strings.Contains(text, line) {
			seen()
		}
	}
	got := s.run(t, "view", "open", "shop", "--timeout", "30s")
	if got.exit != exitOK || !strings.Contains(got.stderr, line) || !strings.Contains(got.stderr, eraseLine+"when done") {
		t.Errorf("terminal: exit %d: %q, want a progress line that is erased", got.exit, got.stderr)
	}

	// Elsewhere it is held for longer than a terminal would wait for the line.
	site.hang = make(chan struct{})
	held := time.AfterFunc(3*progressInterval, func() { close(site.hang) })
	defer held.Stop()
	s.terminals, s.watch = terminals{}, nil
	got = s.run(t, "view", "open", "shop", "--timeout", "30s")
	if got.exit != exitOK || strings.Contains(got.stderr, line) {
		t.Errorf("pipe: exit %d: %q, want no progress line", got.exit, got.stderr)
	}
}
