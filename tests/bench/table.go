package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// row is one line of the result: a figure, and what it should be.
type row struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Target float64 `json:"target"`
	// AtMost is set where less is better.
	AtMost bool `json:"atMost,omitempty"`
	// Unit is empty for a ratio of Ours to Yardstick.
	Unit      string  `json:"unit,omitempty"`
	Ours      float64 `json:"ours,omitempty"`
	Yardstick float64 `json:"yardstick,omitempty"`
}

func (r row) passes() bool {
	if r.AtMost {
		return r.Value <= r.Target
	}
	return r.Value >= r.Target
}

// sample keeps one measurement.
func (b *bench) sample(name, of string, v float64) {
	key := name + ", " + of
	b.Samples[key] = append(b.Samples[key], v)
}

// ratio adds a row that compares the medians of two sets of samples.
func (b *bench) ratio(title, name, ours, yardstick string, target float64) {
	o, y := median(b.Samples[name+", "+ours]), median(b.Samples[name+", "+yardstick])
	if o == 0 || y == 0 {
		return // not measured
	}
	b.Rows = append(b.Rows, row{Name: title, Value: o / y, Target: target, Ours: o, Yardstick: y})
}

// figure adds a row that is at most its target, in unit.
func (b *bench) figure(name string, v, target float64, unit string) {
	b.Rows = append(b.Rows, row{Name: name, Value: v, Target: target, AtMost: true, Unit: unit})
}

// print writes the table to standard output.
func (b *bench) print() {
	fmt.Printf("\n%-50s %14s %12s %10s %10s\n%s\n", "", "lockstep", "yardstick", "ratio", "target", strings.Repeat("-", 108))
	for _, r := range b.Rows {
		ours, yardstick, value, relation := "", "", fmt.Sprintf("%.2f", r.Value), ">="
		if r.Unit == "" {
			ours, yardstick = fmt.Sprintf("%.0f", r.Ours), fmt.Sprintf("%.0f", r.Yardstick)
		} else {
			ours, value = value+" "+r.Unit, ""
		}
		if r.AtMost {
			relation = "<="
		}
		verdict := "short"
		if r.passes() {
			verdict = "pass"
		}
		fmt.Printf("%-50s %14s %12s %10s %10s  %s\n", r.Name, ours, yardstick, value, fmt.Sprintf("%s %.4g", relation, r.Target), verdict)
	}
}

// save keeps the raw samples.
func (b *bench) save() error {
	if b.o.out == "" {
		return nil
	}
	raw, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(b.o.out), 0o755); err != nil {
		return err
	}
	return os.WriteFile(b.o.out, append(raw, '\n'), 0o644)
}

func median(v []float64) float64 { return quantile(v, 0.5) }

// quantile is the smallest value that at least that part of v does not exceed.
func quantile(v []float64, part float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	i := int(part*float64(len(v))+0.999999) - 1
	return v[min(max(i, 0), len(v)-1)]
}
