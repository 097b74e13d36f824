package journal

import (
	"bytes"
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// TestRepairOfSectorAndItsChecksum: nothing proves an answer then, and the damage
// stays.
func TestRepairOfSectorAndItsChecksum(t *testing.T) {
	w := scrubbedWorld(t, 3)
	defer mustClose(t, w.s)
	peer := peerOf(t, w)
	flip(t, w.mem, baseFile, 4096, 1)
	flip(t, w.mem, baseSumsFile, sumOffset(4096), 1)
	scrubWhole(t, w)
	if _, refused := mend(t, w.s, peer, nil); refused == 0 {
		t.Fatal("an answer that nothing proves was taken")
	}
	if st := w.s.RepairStats(); len(w.s.Damaged()) != 1 || st.Unrepairable != 1 || st.Refused == 0 {
		t.Fatalf("%+v, %+v", w.s.Damaged(), st)
	}
}

// TestRepairByAnotherBase: the peer's base is past that of the store, or behind it.
// Sectors that changed in between are not taken, all others are.
func TestRepairByAnotherBase(t *testing.T) {
	for name, ahead := range map[string]bool{"the peer's base is ahead": true, "it is behind": false} {
		t.Run(name, func(t *testing.T) {
			w := scrubbedWorld(t, 4)
			peer := peerOf(t, w)
			if ahead {
				destageAll(t, peer)
			} else {
				destageAll(t, w.s)
			}
			for off := int64(3); off < worldVolumeBytes; off += SectorBytes {
				flip(t, w.mem, baseFile, off, 1)
			}
			scrubWhole(t, w)
			before := len(sectorsThatFail(t, w.s, w.m.image(), 0, worldVolumeBytes))
			mend(t, w.s, peer, nil)
			left := len(w.s.Damaged())
			if !ahead && (before == 0 || left > 0) {
				t.Fatalf("%d sectors failed, %d places are left: %+v", before, left, w.s.Damaged())
			}
			if ahead && left == 0 {
				t.Fatal("sectors that changed since were taken")
			}
			// What the live volume needs of the base has not changed since it.
			if failed := sectorsThatFail(t, w.s, w.m.image(), 0, worldVolumeBytes); len(failed) > 0 {
				t.Fatalf("sectors at %d fail", failed)
			}
			if ahead {
				destageAll(t, w.s)
			}
			checkMended(t, w)
		})
	}
}

// An answer of before the base moved on does not prove an entry of it: a sector that is as it
// was then may be one that the disk was given since, and has lost.
func TestRepairThatTheBaseHasOvertaken(t *testing.T) {
	w := scrubbedWorld(t, 3)
	defer mustClose(t, w.s)
	const at = 4096
	flip(t, w.mem, baseSumsFile, sumOffset(at), 1)
	scrubWhole(t, w)
	q, ok, err := w.s.NextRepair(t.Context())
	if err != nil || !ok || q.Offset != at {
		t.Fatalf("asked: %+v, %t, %v", q, ok, err)
	}
	old := fileBytes(t, w.mem, baseFile)[at:][:q.Length]
	if _, err := w.s.Write(bytes.Repeat([]byte{9}, int(q.Length)), at); err != nil {
		t.Fatal(err)
	}
	destageAll(t, w.s)
	for i, b := range old { // the disk loses that
		flip(t, w.mem, baseFile, at+int64(i), 9^b)
	}
	if err := w.s.TakeRepair(t.Context(), q, RepairAnswer{Data: old, At: q.Base}); err != nil && !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	if err := w.s.ReadAt(make([]byte, q.Length), at); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("a write that the disk has lost is not missed: %v", err)
	}
}

// TestWrongAnswersAreRefused, and change nothing.
func TestWrongAnswersAreRefused(t *testing.T) {
	w := scrubbedWorld(t, 5)
	peer := peerOf(t, w)
	g := sealedSegments(w.s)[0]
	frames := framesOf(t, g)
	var other []byte
	for _, f := range frames[3:] {
		if f.Kind == KindWrite && len(f.Payload) > SectorBytes {
			other = f.AppendEncoded(nil, testVolume)
			break
		}
	}
	at := frames[2]
	altered := func(change func(r *Record)) []byte {
		r := at.Record
		r.Payload = bytes.Clone(fileBytes(t, peer.cfg.FS.(*vfs.Mem), g.name)[at.payloadOffset():][:len(at.Payload)])
		change(&r)
		r.PayloadCRC = PayloadChecksum(r.Payload)
		return r.AppendEncoded(nil, testVolume)
	}
	records := map[string]func(*RepairAnswer){
		"nothing":      func(a *RepairAnswer) { a.Data = nil },
		"truncated":    func(a *RepairAnswer) { a.Data = a.Data[:len(a.Data)-1] },
		"header only":  func(a *RepairAnswer) { a.Data = a.Data[:RecordHeaderBytes] },
		"more":         func(a *RepairAnswer) { a.Data = append(a.Data, 0) },
		"flipped":      func(a *RepairAnswer) { a.Data[len(a.Data)-1] ^= 1 },
		"another seq":  func(a *RepairAnswer) { a.Data = other },
		"another line": func(a *RepairAnswer) { a.Data = altered(func(r *Record) { r.Position.Timeline++ }) },
		"other data":   func(a *RepairAnswer) { a.Data = altered(func(r *Record) { r.Payload[0] ^= 1 }) },
		"another place": func(a *RepairAnswer) {
			a.Data = altered(func(r *Record) { r.Offset = (r.Offset + SectorBytes) % (worldVolumeBytes / 2) })
		},
		"shorter": func(a *RepairAnswer) {
			a.Data = altered(func(r *Record) { r.Kind, r.Payload = KindDiscard, nil })
		},
		"another volume": func(a *RepairAnswer) {
			r, _, err := DecodeRecord(a.Data, testVolume)
			if err != nil {
				t.Fatal(err)
			}
			a.Data = r.AppendEncoded(nil, goldenVolume)
		},
	}
	refuse := func(name string, file string, change func(*RepairAnswer)) {
		t.Helper()
		scrubWhole(t, w)
		before := fileBytes(t, w.mem, file)
		w.s.PeerAnswers(false)
		w.s.PeerAnswers(true)
		asked, refused := mend(t, w.s, peer, func(_ RepairQuestion, a *RepairAnswer) { change(a) })
		if len(asked) != 1 || refused != 1 || !bytes.Equal(before, fileBytes(t, w.mem, file)) || len(w.s.Damaged()) != 1 {
			t.Fatalf("%s: asked %v, %d refused", name, asked, refused)
		}
	}
	for _, damage := range []int64{at.payloadOffset() + 1, at.off + 20} {
		flip(t, w.mem, g.name, damage, 1)
		for name, change := range records {
			refuse(name, g.name, change)
		}
		w.s.PeerAnswers(false)
		w.s.PeerAnswers(true)
		mend(t, w.s, peer, nil)
	}
	flip(t, w.mem, baseFile, 2*SectorBytes+7, 1)
	for name, change := range map[string]func(*RepairAnswer){
		"nothing":             func(a *RepairAnswer) { a.Data = nil },
		"truncated":           func(a *RepairAnswer) { a.Data = a.Data[:len(a.Data)-1] },
		"more":                func(a *RepairAnswer) { a.Data = append(a.Data, 0) },
		"flipped":             func(a *RepairAnswer) { a.Data[0] ^= 1 },
		"zeroes":              func(a *RepairAnswer) { clear(a.Data) },
		"an unknown position": func(a *RepairAnswer) { a.At.Timeline++ },
		"before the base":     func(a *RepairAnswer) { a.At.Seq-- },
	} {
		refuse(name, baseFile, change)
	}
	w.s.PeerAnswers(false)
	w.s.PeerAnswers(true)
	mend(t, w.s, peer, nil)
	checkMended(t, w)
}

// TestRepairWithoutAnswer: each thing that a peer may lack is told, and the damage
// stays listed, is not asked about again at once, and is later.
func TestRepairWithoutAnswer(t *testing.T) {
	w := scrubbedWorld(t, 6)
	defer mustClose(t, w.s)
	peer := peerOf(t, w)
	destageAll(t, peer)
	empty := newWorld(t, 60, nil)
	defer mustClose(t, empty.s)
	g := sealedSegments(w.s)[0]
	at := framesOf(t, g)[4]
	flip(t, w.mem, g.name, at.off+30, 1)
	scrubWhole(t, w)
	for want, other := range map[RepairLack]*Store{LackHorizon: peer, LackUnknown: empty.s, LackDamaged: w.s} {
		w.s.PeerAnswers(false)
		w.s.PeerAnswers(true)
		var lacks []RepairLack
		asked, _ := mend(t, w.s, other, func(_ RepairQuestion, a *RepairAnswer) { lacks = append(lacks, a.Lacks) })
		if len(asked) != 1 || asked[0].Record != at.Position || lacks[0] != want {
			t.Fatalf("asked %v, the answer lacks %v, want %v", asked, lacks, want)
		}
		if st := w.s.RepairStats(); len(w.s.Damaged()) != 1 || st.Unrepairable != 1 {
			t.Fatalf("%+v, %+v", w.s.Damaged(), st)
		}
		if asked, _ := mend(t, w.s, other, nil); len(asked) > 0 {
			t.Fatalf("asked again: %v", asked)
		}
	}
	w.clock.Advance(repairRetry)
	if asked, _ := mend(t, w.s, peer, nil); len(asked) != 1 {
		t.Fatalf("later asked %v", asked)
	}
}
