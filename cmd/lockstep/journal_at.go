package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
)

const storeAtForms = "want TIMELINE/SEQ, an RFC 3339 time (2026-11-22T10:41:07Z), a checkpoint number (1234), latest, or pin:NAME"

// storeMoment is a moment of a single store that a person named.
type storeMoment struct {
	text     string           // as parseAt returns it; empty for a position
	position journal.Position // if it is one
}

// parseStoreAt takes what --at of the other commands does, and positions.
func parseStoreAt(text string) (storeMoment, error) {
	if strings.Contains(text, "/") && !strings.HasPrefix(text, pinMark) {
		at, err := journal.ParsePosition(text)
		if err != nil {
			return storeMoment{}, misuse("--at: %v", err)
		}
		return storeMoment{position: at}, nil
	}
	if text == "" {
		return storeMoment{}, misuse("--at is empty: %s", storeAtForms)
	}
	at, err := parseAt(text)
	return storeMoment{text: at}, err
}

// foundMoment is the position that a moment means, and the checkpoint there.
type foundMoment struct {
	at    journal.Position
	point *journal.Checkpoint // nil: none
}

// find looks a moment up in a store. A time means the newest checkpoint that is
// not after it, on the live timeline.
func (m storeMoment) find(r *journal.ReadOnly) (foundMoment, error) {
	if name, ok := strings.CutPrefix(m.text, pinMark); ok {
		at, ok := r.Pins()[name]
		if !ok {
			return foundMoment{}, fmt.Errorf("the store has no pin %q: see `lockstep journal dump`", name)
		}
		return withCheckpoint(r, at), nil
	}
	switch m.text {
	case "":
		return withCheckpoint(r, m.position), nil
	case atLatest:
		return withCheckpoint(r, r.Tip()), nil
	}
	points := r.Checkpoints()
	if len(points) == 0 {
		return foundMoment{}, fmt.Errorf("the store has no checkpoint on its live timeline: name a position, or latest")
	}
	if number, err := strconv.ParseUint(m.text, 10, 64); err == nil {
		return findCheckpoint(points, journal.CheckpointNumber(number))
	}
	moment, err := time.Parse(time.RFC3339Nano, m.text)
	if err != nil {
		return foundMoment{}, fmt.Errorf("read the moment: %w", err)
	}
	found := foundMoment{}
	for i := range points {
		if !points[i].Time.After(moment) {
			found = foundMoment{points[i].Position, &points[i]}
		}
	}
	if found.point == nil {
		return found, fmt.Errorf("no checkpoint is that old: the oldest is %s", describeCheckpoint(&points[0]))
	}
	return found, nil
}

// withCheckpoint finds the checkpoint whose record is at a position.
func withCheckpoint(r *journal.ReadOnly, at journal.Position) foundMoment {
	for _, c := range r.Checkpoints() {
		if c.Position == at {
			return foundMoment{at, &c}
		}
	}
	return foundMoment{at: at}
}

func findCheckpoint(points []journal.Checkpoint, number journal.CheckpointNumber) (foundMoment, error) {
	var below, above *journal.Checkpoint
	for i := range points {
		switch p := &points[i]; {
		case p.Number == number:
			return foundMoment{p.Position, p}, nil
		case p.Number < number:
			below = p
		case above == nil:
			above = p
		}
	}
	var near []string
	for _, p := range []*journal.Checkpoint{below, above} {
		if p != nil {
			near = append(near, describeCheckpoint(p))
		}
	}
	return foundMoment{}, fmt.Errorf("no checkpoint %d in the store; nearest: %s", number, strings.Join(near, ", "))
}

func describeCheckpoint(c *journal.Checkpoint) string {
	return fmt.Sprintf("%d of %s", c.Number, c.Time.UTC().Format(time.RFC3339Nano))
}
