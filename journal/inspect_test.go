package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

func TestInspectTakesTheLock(t *testing.T) {
	w := newWorld(t, 1, nil)
	if _, err := Verify(context.Background(), Config{FS: w.mem, Dir: worldDir}); !errors.Is(err, ErrInUse) {
		t.Fatalf("verify an open store: %v", err)
	}
	if err := Dump(context.Background(), Config{FS: w.mem, Dir: worldDir}, &bytes.Buffer{}, DumpOptions{}); !errors.Is(err, ErrInUse) {
		t.Fatalf("dump an open store: %v", err)
	}
	if err := w.s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(context.Background(), Config{FS: w.mem, Dir: "stores"}); !errors.Is(err, ErrNotStore) {
		t.Fatalf("verify no store: %v", err)
	}
	mustClose(t, mustOpen(t, w.cfg)) // the lock is free again
}

// TestInspectChangesNothing runs Verify and Dump over a file system that
// counts what is changed.
func TestInspectChangesNothing(t *testing.T) {
	d := newDamagedStore(t)
	fault := vfs.NewFault(d.mem)
	if _, err := Verify(context.Background(), Config{FS: fault, Dir: worldDir}); err != nil {
		t.Fatal(err)
	}
	if err := Dump(context.Background(), Config{FS: fault, Dir: worldDir}, &bytes.Buffer{}, DumpOptions{Records: true}); err != nil {
		t.Fatal(err)
	}
	if n := fault.Count(); n != 0 {
		t.Fatalf("%d changes:\n%s", n, fault.Trace())
	}
}

func TestDumpRecords(t *testing.T) {
	d := newDamagedStore(t)
	from, to := Position{d.tip.Timeline, 4}, Position{d.tip.Timeline, d.tip.Seq - 2}
	want := int(to.Seq-from.Seq) + 1
	var out bytes.Buffer
	if err := Dump(context.Background(), Config{FS: d.mem, Dir: worldDir}, &out, DumpOptions{From: from, To: to, Records: true, JSON: true}); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for line := range strings.Lines(out.String()) {
		var entry struct {
			Type   string
			Record recordLine
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if entry.Type == "record" {
			at := Position{from.Timeline, from.Seq + Seq(counts["record"])}
			if entry.Record.Position != at.String() {
				t.Fatalf("record %s, want %s", entry.Record.Position, at)
			}
		}
		counts[entry.Type]++
	}
	if counts["store"] != 1 || counts["timeline"] != 1 || counts["pin"] != 1 || counts["segment"] < 3 || counts["record"] != want {
		t.Fatalf("%v, want %d records", counts, want)
	}
	out.Reset()
	if err := Dump(context.Background(), Config{FS: d.mem, Dir: worldDir}, &out, DumpOptions{Records: true}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\nrecord "); n != int(d.tip.Seq) {
		t.Fatalf("text has %d records, want %d", n, d.tip.Seq)
	}
	err := Dump(context.Background(), Config{FS: d.mem, Dir: worldDir}, &out, DumpOptions{Records: true, To: Position{1, 1}})
	if !errors.Is(err, ErrUnknownPosition) {
		t.Fatalf("dump to an unknown position: %v", err)
	}
}

// TestDumpOfDamage prints what is there, and names the damage as an error.
func TestDumpOfDamage(t *testing.T) {
	d := newDamagedStore(t)
	d.corrupt(t, segmentName(2), blockBytes+frameHeaderBytes, 1)
	var out bytes.Buffer
	err := Dump(context.Background(), Config{FS: d.mem, Dir: worldDir}, &out, DumpOptions{Records: true})
	var c *CorruptError
	if !errors.As(err, &c) || c.File != segmentName(2) || c.Offset != blockBytes || c.Wanted == "" || c.Found == "" {
		t.Fatalf("error %v", err)
	}
	if text := out.String(); strings.Count(text, "\ndamage ") != 1 || strings.Count(text, "\nrecord ") != int(d.tip.Seq)-1 {
		t.Fatalf("printed:\n%s", text)
	}
}

// TestReportFieldNames: tools read them.
func TestReportFieldNames(t *testing.T) {
	b, err := json.Marshal(Report{Timelines: []TimelineReport{{}}, Pins: []PinReport{{}}, Segments: []SegmentReport{{Timeline: "t"}}, IndexRuns: []RunReport{{Damage: "d"}}, Damage: []Damage{{}}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"dir":"","volume":"","version":0,"sizeBytes":0,"baseBytes":0,"active":"","base":"","horizon":"","tip":"","clean":false,` +
		`"timelines":[{"id":"","parent":"","last":0,"created":"0001-01-01T00:00:00Z","reason":""}],"pins":[{"name":"","position":""}],` +
		`"segments":[{"file":"","state":"","timeline":"t","first":0,"last":0,"bytes":0,"endBytes":0,"records":0,"checkpoints":0,"damaged":false}],` +
		`"indexRuns":[{"file":"","first":0,"last":0,"extents":0,"segments":0,"damage":"d"}],"summedBytes":0,` +
		`"damage":[{"file":"","offset":0,"what":"","wanted":"","found":"","kind":""}]}`
	if string(b) != want {
		t.Fatalf("got  %s\nwant %s", b, want)
	}
}
