package main

import (
	"strings"
	"unicode/utf8"
)

// columnGap is what parts two columns.
const columnGap = "   "

// column is the head of one column of a table.
type column struct {
	title string
	// right aligns numbers, so that their sizes can be compared at a glance.
	right bool
	// wide columns appear with -o wide only.
	wide bool
}

func left(title string) column  { return column{title: title} }
func right(title string) column { return column{title: title, right: true} }
func wide(c column) column      { c.wide = true; return c }

// cell is a text and what it means; only the meaning is coloured.
type cell struct {
	text string
	tone tone
}

func text(s string) cell {
	if s == "" {
		s = unknown
	}
	return cell{text: s}
}

// table writes rows under columns. A row has one cell for each column, wide
// ones included. Nothing is written after the last visible cell of a row.
func (p *page) table(indent string, columns []column, rows [][]cell) {
	widths := make([]int, len(columns))
	shown := make([]int, 0, len(columns))
	for i, c := range columns {
		if c.wide && !p.wide {
			continue
		}
		shown = append(shown, i)
		widths[i] = utf8.RuneCountInString(c.title)
		for _, row := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
	}
	head := make([]cell, len(columns))
	for i, c := range columns {
		head[i] = cell{text: c.title, tone: toneHead}
	}
	for _, row := range append([][]cell{head}, rows...) {
		p.line("%s", indent+p.row(columns, shown, widths, row))
	}
}

func (p *page) row(columns []column, shown, widths []int, row []cell) string {
	var b strings.Builder
	for n, i := range shown {
		if n > 0 {
			b.WriteString(columnGap)
		}
		padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(row[i].text))
		last := n == len(shown)-1
		switch {
		case columns[i].right:
			b.WriteString(padding + p.paint(row[i]))
		case last:
			b.WriteString(p.paint(row[i]))
		default:
			b.WriteString(p.paint(row[i]) + padding)
		}
	}
	return b.String()
}
