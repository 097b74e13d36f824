package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-csi/lockstep/cmd/lockstep/image"
	"github.com/lockstep-csi/lockstep/journal"
)

const (
	formatRaw   = "raw"
	formatQcow2 = "qcow2"
)

// exportFlags are those of `lockstep journal export`.
type exportFlags struct {
	where            storeFlags
	at, format       string
	force, keepGoing bool
	output           outputFlag
	begun            bool // a device may have been written to
}

// imageDocument is the output of `lockstep journal export`.
type imageDocument struct {
	Store      string            `json:"store"`
	Volume     string            `json:"volume"`
	Target     string            `json:"target"`
	Format     string            `json:"format"`
	Position   string            `json:"position"`
	Checkpoint *uint64           `json:"checkpoint"`
	Time       *time.Time        `json:"time"`
	SizeBytes  int64             `json:"sizeBytes"`
	DataBytes  int64             `json:"dataBytes"`
	Missing    []missingDocument `json:"missing"`
	Unknown    []journal.Damage  `json:"unknown"`
}

// missingDocument is a part of the image that could not be read.
type missingDocument struct {
	OffsetBytes int64          `json:"offsetBytes"`
	LengthBytes int64          `json:"lengthBytes"`
	Damage      journal.Damage `json:"damage"`
}

func (a *app) newJournalExportCommand() *cobra.Command {
	var f exportFlags
	command := &cobra.Command{
		Use:   "export STORE TARGET",
		Short: "Write the volume as it was at a moment to a raw or qcow2 image, or to a block device",
		Long: `Writes the image of a volume at a moment to TARGET, a file or a block device. The
store is only read, every record that the image is made of is verified, and what
reads as zeroes takes no space in a file.

A file gets its name when it is whole and durable; after a failure or an interrupt
nothing is left of it. A block device is overwritten from its beginning, needs
--force, must not be in use, and holds a part of the image after a failure.

Damage ends the export, and the error names where it lies. With --keep-going what
is damaged becomes zeroes, is listed, and the exit status is 1.

A volume that is open is exported by its site: see ` + "`lockstep view open`" + `.`,
		Args: wantArgs("STORE", "TARGET"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			return a.exportJournal(command.Context(), args[0], args[1], &f)
		}),
	}
	flags := command.Flags()
	flags.StringVar(&f.at, "at", atLatest, "moment: position TIMELINE/SEQ, RFC 3339 time, checkpoint number, latest, or pin:NAME")
	flags.StringVar(&f.format, "format", "", "raw or qcow2; default: qcow2 if TARGET ends with .qcow2, raw otherwise")
	flags.BoolVar(&f.force, "force", false, "replace a file that exists; overwrite a block device")
	flags.BoolVar(&f.keepGoing, "keep-going", false, "export also what is damaged, as zeroes, and list it")
	f.where.register(command)
	f.output.register(command)
	return command
}

func (a *app) exportJournal(ctx context.Context, store, target string, f *exportFlags) error {
	moment, err := parseStoreAt(f.at)
	if err != nil {
		return err
	}
	cfg, err := f.where.store(store)
	if err != nil {
		return err
	}
	if target, err = filepath.Abs(target); err != nil {
		return misuse("%s: %v", target, err)
	}
	if f.format == "" {
		f.format = formatRaw
		if strings.HasSuffix(target, "."+formatQcow2) {
			f.format = formatQcow2
		}
	}
	if err := f.validate(&cfg, target); err != nil {
		return err
	}
	r, err := openReadOnly(cfg, "have that site show the moment over NBD: `lockstep view open GROUP --at MOMENT`")
	if err != nil {
		return err
	}
	document, err := a.exportFrom(ctx, r, moment, target, f)
	if err = errors.Join(err, r.Close()); err != nil {
		left := "nothing of the image was left"
		switch {
		case f.begun:
			left = target + " holds a part of the image"
		case image.IsDevice(target):
			left = target + " was not written to"
		}
		return explainInterrupt(err, left)
	}
	document.Store = cfg.Dir
	if err := a.print(&f.output, exportResult(document)); err != nil {
		return err
	}
	if n := len(document.Missing) + len(document.Unknown); n > 0 {
		return fmt.Errorf("%s is not whole: the store is damaged in %d places of the image", target, n)
	}
	return nil
}

// openReadOnly says what to do when a site has the store: end the site, or what instead names.
func openReadOnly(cfg journal.Config, instead string) (*journal.ReadOnly, error) {
	r, err := journal.OpenReadOnly(cfg)
	return r, explainInUse(err, instead)
}

// validate refuses what cannot be meant, before anything is opened.
func (f *exportFlags) validate(store *journal.Config, target string) error {
	if err := wantOneOf("--format", f.format, formatRaw, formatQcow2); err != nil {
		return err
	}
	if image.IsDevice(target) {
		if f.format != formatRaw {
			return misuse("--format %s: a block device takes a raw image only", f.format)
		}
		if !f.force {
			return misuse("%s is a block device: --force overwrites what is on it", target)
		}
	}
	if isInside(store.Dir, target) || store.JournalDir != "" && isInside(store.JournalDir, target) {
		return misuse("%s lies in the store", target)
	}
	if isStoreDir(filepath.Dir(resolved(target))) {
		return misuse("%s lies in the store %s", target, filepath.Dir(resolved(target)))
	}
	return nil
}

// isInside reports whether a file would lie below a directory. Neither needs to
// exist.
func isInside(dir, name string) bool {
	rel, err := filepath.Rel(resolved(dir), resolved(name))
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// resolved follows the symbolic links of as much of a path as exists.
func resolved(name string) string {
	for rest, at := "", name; ; {
		if real, err := filepath.EvalSymlinks(at); err == nil {
			return filepath.Join(real, rest)
		}
		up := filepath.Dir(at)
		if up == at {
			return name
		}
		rest, at = filepath.Join(filepath.Base(at), rest), up
	}
}

func (a *app) exportFrom(ctx context.Context, r *journal.ReadOnly, moment storeMoment, target string, f *exportFlags) (imageDocument, error) {
	found, err := moment.find(r)
	if err != nil {
		return imageDocument{}, err
	}
	var doing exportProgress
	stop := a.progressOf(doing.String)
	defer stop()
	im, err := r.Image(ctx, found.at, journal.ImageOptions{KeepGoing: f.keepGoing, Verified: doing.verified})
	if err != nil {
		if errors.Is(err, journal.ErrCorrupt) && !f.keepGoing {
			err = fmt.Errorf("%w; --keep-going exports the rest", err)
		}
		return imageDocument{}, err
	}
	copied, err := exportImage(ctx, im, target, f, &doing.copied)
	unknown, size := im.Unknown(), im.SizeBytes()
	if err = errors.Join(err, im.Close()); err != nil {
		return imageDocument{}, err
	}
	return describeExport(r, found, target, f.format, size, copied, unknown), nil
}

// imageTarget is a sink that gives its image to the world, or takes it back.
type imageTarget interface {
	image.Sink
	Commit() error
	Abort() error
}

func exportImage(ctx context.Context, im *journal.Image, target string, f *exportFlags, progress *image.Progress) (image.Copied, error) {
	to, err := openTarget(target, f, im.SizeBytes())
	if err != nil {
		return image.Copied{}, err
	}
	copied, err := image.Copy(ctx, im, to, f.keepGoing, progress)
	if err != nil {
		return copied, errors.Join(fmt.Errorf("export to %s: %w", target, err), to.Abort())
	}
	return copied, to.Commit()
}

func openTarget(target string, f *exportFlags, sizeBytes int64) (imageTarget, error) {
	if image.IsDevice(target) {
		device, err := image.OpenDevice(target, sizeBytes)
		if err != nil {
			return nil, err
		}
		f.begun = true
		return device, nil
	}
	file, err := image.CreateFile(target, f.force)
	if errors.Is(err, image.ErrExists) {
		return nil, fmt.Errorf("%w: --force replaces it", err)
	}
	if err != nil {
		return nil, err
	}
	if f.format == formatQcow2 {
		return image.NewQcow2(file, sizeBytes), nil
	}
	raw, err := image.NewRaw(file, sizeBytes)
	if err != nil {
		return nil, errors.Join(err, file.Abort())
	}
	return raw, nil
}

// exportProgress is what an export is at.
type exportProgress struct {
	verifiedBytes, journalBytes atomic.Int64
	copied                      image.Progress
}

func (p *exportProgress) verified(done, total int64) {
	p.verifiedBytes.Store(done)
	p.journalBytes.Store(total)
}

func (p *exportProgress) String() string {
	if total := p.copied.Total.Load(); total > 0 {
		return "writing the image: " + iecSigned(p.copied.Done.Load()) + " of " + iecSigned(total)
	}
	return "verifying records: " + iecSigned(p.verifiedBytes.Load()) + " of " + iecSigned(p.journalBytes.Load())
}

func describeExport(r *journal.ReadOnly, found foundMoment, target, format string, size int64, copied image.Copied, unknown []journal.Damage) imageDocument {
	document := imageDocument{
		Volume: r.Volume().String(), Target: target, Format: format, Position: found.at.String(),
		SizeBytes: size, DataBytes: copied.DataBytes, Missing: []missingDocument{}, Unknown: append([]journal.Damage{}, unknown...),
	}
	if found.point != nil {
		number, moment := uint64(found.point.Number), found.point.Time.UTC()
		document.Checkpoint, document.Time = &number, &moment
	}
	for _, m := range copied.Missing {
		document.Missing = append(document.Missing, missingDocument{m.Offset, m.Length, journal.DescribeDamage(m.Cause)})
	}
	return document
}

func exportResult(d imageDocument) result {
	return result{
		document: d,
		names:    []string{d.Target},
		show: func(p *page) {
			whole := cell{"whole", toneGood}
			if len(d.Missing)+len(d.Unknown) > 0 {
				whole = cell{"NOT WHOLE", toneBad}
			}
			point := "none at this position"
			if d.Checkpoint != nil {
				point = fmt.Sprintf("%d of %s", *d.Checkpoint, d.Time.Format(tableTime))
			}
			p.fields([]field{
				{"Image", text(d.Target)}, {"State", whole}, {"Format", text(d.Format)}, {"Volume", text(d.Volume)}, {"Position", text(d.Position)},
				{"Checkpoint", text(point)}, {"Size", text(iecSigned(d.SizeBytes))}, {"Data", text(iecSigned(d.DataBytes))},
			})
			for _, m := range d.Missing {
				p.line("  %s", p.paint(cell{oneLine(fmt.Sprintf("zeroes: %d bytes at offset %d: %s", m.LengthBytes, m.OffsetBytes, damageText(m.Damage))), toneBad}))
			}
			for _, x := range d.Unknown {
				p.line("  %s", p.paint(cell{oneLine("not known what it changed: " + damageText(x)), toneBad}))
			}
		},
	}
}

// damageText names a damaged place as verify does.
func damageText(d journal.Damage) string {
	return fmt.Sprintf("%s: %s at offset %d of %s: wanted %s, found %s", d.Kind, d.What, d.Offset, d.File, d.Wanted, d.Found)
}
