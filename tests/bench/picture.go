package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"

	svg "github.com/ajstarks/svgo"
)

// Measures of the picture, in pixels.
const (
	barLeft    = 330
	barWidth   = 420 // from minRatio to maxRatio
	barHeight  = 14
	rowHeight  = 24
	pictureTop = 60
)

// The ratios that the ends of the logarithmic scale stand for.
const (
	minRatio = 0.1
	maxRatio = 10.0
)

// draw makes a picture of the ratios: a bar for each, a line for its target.
func (b *bench) draw() error {
	var rows []row
	for _, r := range b.Rows {
		if r.Unit == "" {
			rows = append(rows, r)
		}
	}
	if b.o.picture == "" || len(rows) == 0 {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(b.o.picture), 0o755); err != nil {
		return err
	}
	file, err := os.Create(b.o.picture)
	if err != nil {
		return err
	}
	height := pictureTop + rowHeight*len(rows) + 20
	c := svg.New(file)
	c.Start(barLeft+barWidth+80, height)
	c.Rect(0, 0, barLeft+barWidth+80, height, "fill:white")
	c.Gstyle("font-family:sans-serif;font-size:12px")
	c.Text(10, 20, "Lockstep to its yardstick (more is better; | is the target)", "font-size:14px;font-weight:bold")
	for _, tick := range []float64{0.1, 0.2, 0.5, 1, 2, 5, 10} {
		x := place(tick)
		c.Line(x, pictureTop-10, x, height-15, "stroke:#ddd")
		c.Text(x, pictureTop-15, fmt.Sprintf("%g", tick), "text-anchor:middle;fill:#666")
	}
	for i, r := range rows {
		drawRow(c, r, pictureTop+i*rowHeight)
	}
	c.Gend()
	c.End()
	return file.Close()
}

func drawRow(c *svg.SVG, r row, y int) {
	colour := "#c0392b"
	if r.passes() {
		colour = "#2e8b57"
	}
	c.Text(barLeft-8, y+barHeight-2, r.Name, "text-anchor:end")
	end := place(r.Value)
	c.Rect(barLeft, y, max(end-barLeft, 1), barHeight, "fill:"+colour)
	c.Text(max(end, place(r.Target))+6, y+barHeight-2, fmt.Sprintf("%.2f", r.Value))
	c.Line(place(r.Target), y-3, place(r.Target), y+barHeight+3, "stroke:black;stroke-width:2")
}

// place is the x of a ratio.
func place(ratio float64) int {
	part := math.Log(ratio/minRatio) / math.Log(maxRatio/minRatio)
	return barLeft + int(min(max(part, 0), 1)*barWidth)
}
