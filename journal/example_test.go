package journal_test

import (
	"context"
	"fmt"
	"log"

	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// A mistake is undone by a fork at the position before it; the records behind
// that position stay readable on their own timeline.
func Example() {
	cfg := journal.Config{FS: vfs.NewMem(), Dir: "pgdata"}
	volume := journal.VolumeID{0xc0, 0xff, 0xee}
	if err := journal.Create(cfg, journal.Spec{Volume: volume, SizeBytes: 1 << 20}); err != nil {
		log.Fatal(err)
	}
	store, err := journal.Open(cfg)
	if err != nil {
		log.Fatal(err)
	}

	sector := make([]byte, journal.SectorBytes)
	copy(sector, "precious")
	before, err := store.Write(sector, 0)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := store.Discard(0, 1<<20); err != nil { // the mistake
		log.Fatal(err)
	}
	mistake := store.Tip()
	if err := store.Flush(context.Background()); err != nil {
		log.Fatal(err)
	}

	if _, err := store.Fork(before, "rewind"); err != nil {
		log.Fatal(err)
	}
	if err := store.ReadAt(sector, 0); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("live: %q\n", sector[:8])

	view, err := store.View(mistake)
	if err != nil {
		log.Fatal(err)
	}
	if err := view.ReadAt(sector, 0); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("as it was: %q\n", sector[:8])

	if err := view.Close(); err != nil {
		log.Fatal(err)
	}
	if err := store.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// live: "precious"
	// as it was: "\x00\x00\x00\x00\x00\x00\x00\x00"
}
