package main

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

// page is one screen of text for people, built in memory and written at once.
type page struct {
	buffer bytes.Buffer
	now    time.Time
	wide   bool
	colour bool
}

// tone is what a text means.
type tone int

const (
	tonePlain tone = iota
	toneHead
	toneGood
	toneBad
	toneNote
)

// escapes are the SGR codes of ECMA-48. Meaning never rests on colour alone.
var escapes = map[tone]string{toneHead: "1", toneGood: "32", toneBad: "1;31", toneNote: "33"}

func (p *page) paint(c cell) string {
	code, ok := escapes[c.tone]
	if !p.colour || !ok {
		return c.text
	}
	return "\x1b[" + code + "m" + c.text + "\x1b[0m"
}

func (p *page) line(format string, args ...any) {
	p.buffer.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " "))
	p.buffer.WriteByte('\n')
}

// section starts a part of the page under a title, after an empty line.
func (p *page) section(title string) {
	if p.buffer.Len() > 0 {
		p.line("")
	}
	p.line("%s", p.paint(cell{title, toneHead}))
}

// field is a name and its value.
type field struct {
	name  string
	value cell
}

// fields writes names and values in two columns.
func (p *page) fields(fields []field) {
	width := 0
	for _, f := range fields {
		width = max(width, len(f.name))
	}
	for _, f := range fields {
		p.line("%s", fmt.Sprintf("%-*s", width+len(columnGap), f.name)+p.paint(f.value))
	}
}
