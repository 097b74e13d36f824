package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/cmd/lockstep/image"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// importDocument is the output of `lockstep journal import`.
type importDocument struct {
	Image     string `json:"image"`
	Store     string `json:"store"`
	Volume    string `json:"volume"`
	SizeBytes int64  `json:"sizeBytes"`
	// Copied tells that the image is still there; else its file is the base.
	Copied bool `json:"copied"`
}

func (a *app) newJournalImportCommand() *cobra.Command {
	var output outputFlag
	var volume string
	var copies bool
	command := &cobra.Command{
		Use:   "import IMAGE STORE",
		Short: "Make a store of an existing raw disk image, without a copy",
		Long: `Makes STORE a store whose volume is the raw image IMAGE. Without --copy nothing is
copied: IMAGE becomes the store's base image and loses its old name, so both have to be
on one file system. Whenever this is interrupted, the image is untouched in its
place, or the store is whole.

With --copy the image stays as it is; where the file system can share blocks (XFS,
btrfs) that takes no space and no time. A block device can only be copied.

` + "`lockstep volume adopt STORE`" + ` then makes it a volume of a standalone site.`,
		Args: wantArgs("IMAGE", "STORE"),
		RunE: a.runs(func(command *cobra.Command, args []string) error {
			document, err := a.importImage(command.Context(), args[0], args[1], volume, copies)
			if err != nil {
				return err
			}
			if err := a.print(&output, importResult(document)); err != nil {
				return err
			}
			if output.forPeople() {
				a.hint("make it a volume of a site: %s volume adopt %s", a.displayName(), document.Store)
			}
			return nil
		}),
	}
	command.Flags().StringVar(&volume, "volume", "", "id of the volume, 32 hexadecimal digits; default: a random one")
	command.Flags().BoolVar(&copies, "copy", false, "leave the image where it is and copy it")
	output.register(command)
	return command
}

func (a *app) importImage(ctx context.Context, name, store, volume string, copies bool) (importDocument, error) {
	id, err := volumeFlag(volume)
	if err != nil {
		return importDocument{}, err
	}
	dir, err := storeDir(store)
	if err != nil {
		return importDocument{}, err
	}
	asked := name
	if name, err = filepath.EvalSymlinks(name); errors.Is(err, os.ErrNotExist) && isStoreDir(dir) {
		return importDocument{}, fmt.Errorf("there is no image %s, and %s is a store already: an import that came to its end has taken the image, see `lockstep journal verify %s`", asked, dir, dir)
	}
	if err == nil {
		name, err = filepath.Abs(name)
	}
	if err != nil {
		return importDocument{}, fmt.Errorf("import image: %w", err)
	}
	if isInside(dir, name) {
		return importDocument{}, misuse("%s lies in %s, whose content an import may replace: name another directory for the store", name, dir)
	}
	if !copies {
		if err := checkNoBase(name); err != nil {
			return importDocument{}, err
		}
		if document, done, err := finishImport(name, dir); done || err != nil {
			return document, err
		}
	}
	if err := checkNewStore(dir, name); err != nil {
		return importDocument{}, err
	}
	from, err := image.OpenOriginal(name)
	if err != nil {
		return importDocument{}, fmt.Errorf("import: %w", err)
	}
	document := importDocument{name, dir, id.String(), from.SizeBytes(), copies}
	spec := journal.Spec{Volume: id, SizeBytes: from.SizeBytes()}
	if copies {
		err := errors.Join(a.importCopy(ctx, from, dir, spec), from.Close())
		return document, explainInterrupt(err, "no store was made, and the image is as it was")
	}
	err = checkTakable(from, dir, name)
	if err = errors.Join(err, from.Close()); err == nil {
		err = journal.TakeImage(journal.Config{FS: vfs.OS{}, Dir: dir}, spec, name)
	}
	return document, explainImport(err)
}

func volumeFlag(text string) (id journal.VolumeID, err error) {
	if text == "" {
		_, err = rand.Read(id[:])
		return id, err
	}
	if id, err = journal.ParseVolumeID(text); err != nil {
		return id, misuse("--volume: %v", err)
	}
	if id.IsZero() {
		return id, misuse("--volume: all zero is no volume")
	}
	return id, nil
}

// checkNoBase refuses to take the base image away from a store, which cannot be opened
// without it any more.
func checkNoBase(name string) error {
	dir := filepath.Dir(name)
	if filepath.Base(name) != filepath.Base(journal.BasePath(dir)) || !isStoreDir(dir) {
		return nil
	}
	return fmt.Errorf("%s is the base of the store %s, which would be lost without it: `lockstep journal export %s` makes an image of what the volume holds, and --copy takes the base of a store that was drained as it is", name, dir, dir)
}

// finishImport ends an import that was interrupted when the store was whole, and
// the image had its old name still.
func finishImport(name, dir string) (importDocument, bool, error) {
	if !sameFile(name, journal.BasePath(dir)) {
		return importDocument{}, false, nil
	}
	r, err := openReadOnly(journal.Config{FS: vfs.OS{}, Dir: dir}, "name another directory")
	if errors.Is(err, journal.ErrNotStore) {
		return importDocument{}, false, nil
	}
	if err != nil {
		return importDocument{}, false, err
	}
	document := importDocument{name, dir, r.Volume().String(), r.SizeBytes(), false}
	if err := r.Close(); err != nil {
		return document, false, err
	}
	if err := journal.LeaveName(journal.Config{FS: vfs.OS{}, Dir: dir}, name); err != nil {
		return document, false, fmt.Errorf("finish the import of %s: %w", name, err)
	}
	return document, true, nil
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// checkNewStore refuses a directory that holds what an import would remove.
func checkNewStore(dir, name string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	if journal.IsStore(vfs.OS{}, dir) {
		return fmt.Errorf("import to %s: %w", dir, journal.ErrExists)
	}
	base := filepath.Base(journal.BasePath(dir))
	for _, entry := range entries {
		switch {
		case entry.Name() == base && sameFile(name, journal.BasePath(dir)), slices.Contains(journal.UnfinishedNames(), entry.Name()) && !isFilled(dir, entry):
			// Of an import of this image that was interrupted.
		default:
			return fmt.Errorf("import to %s: the directory holds %q already: name a new one, or remove that if an interrupted import with --copy left it", dir, entry.Name())
		}
	}
	return nil
}

// isFilled reports whether an entry is a directory that holds something, or does not tell. An
// import puts nothing into those that it makes before the store is one.
func isFilled(dir string, entry fs.DirEntry) bool {
	if !entry.IsDir() {
		return false
	}
	inside, err := os.ReadDir(filepath.Join(dir, entry.Name()))
	return err != nil || len(inside) > 0
}

// checkTakable refuses an image that somebody could go on writing to by another
// name, or that is no file.
func checkTakable(from *image.Original, dir, name string) error {
	if from.IsDevice() {
		return fmt.Errorf("%s is a block device, and the base of a store is a file: --copy copies it", name)
	}
	links, err := from.Links()
	if err != nil {
		return err
	}
	if sameFile(name, journal.BasePath(dir)) {
		links-- // of an import that was interrupted
	}
	if links != 1 {
		return fmt.Errorf("%s has %d more names (hard links): remove them, or pass --copy", name, links-1)
	}
	return nil
}

// explainImport says what to do where a file cannot have two names.
func explainImport(err error) error {
	switch {
	case errors.Is(err, unix.EXDEV):
		return fmt.Errorf("%w: image and store are on different file systems: put them on one, or pass --copy", err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EMLINK):
		return fmt.Errorf("%w: the file system cannot give the image a second name, which a safe import needs: pass --copy", err)
	}
	return err
}

// importCopy makes a store of a copy: of shared blocks where that can be, and else
// byte by byte.
func (a *app) importCopy(ctx context.Context, from *image.Original, dir string, spec journal.Spec) error {
	cfg := journal.Config{FS: vfs.OS{}, Dir: dir}
	if !from.IsDevice() {
		if taken, err := importClone(from, cfg, spec); taken || err != nil {
			return err
		}
	}
	im, err := journal.NewImport(cfg, spec, journal.Position{}, nil)
	if err != nil {
		return err
	}
	var progress image.Progress
	stop := a.progressOf(func() string {
		return "copying: " + iecSigned(progress.Done.Load()) + " of " + iecSigned(progress.Total.Load())
	})
	_, err = image.Copy(ctx, from, importSink{im}, false, &progress)
	stop()
	if err != nil {
		return errors.Join(fmt.Errorf("import to %s: %w", dir, err), im.Abort())
	}
	return im.Commit()
}

// importClone makes a store of a file that shares the image's blocks; taken is
// false where the file system cannot.
func importClone(from *image.Original, cfg journal.Config, spec journal.Spec) (taken bool, err error) {
	if err := os.MkdirAll(filepath.Dir(cfg.Dir), 0o700); err != nil {
		return false, fmt.Errorf("import: %w", err)
	}
	file, err := image.CreateFile(filepath.Join(filepath.Dir(cfg.Dir), filepath.Base(cfg.Dir)+".base"), false)
	if err != nil {
		return false, err
	}
	if err := from.CloneTo(file); err != nil {
		return false, file.Abort()
	}
	hidden, err := file.CommitHidden()
	if err != nil {
		return false, err
	}
	err = journal.TakeImage(cfg, spec, hidden)
	if gone := os.Remove(hidden); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return true, errors.Join(err, file.Release())
}

// importSink fills a store that is new, and so zeroes.
type importSink struct{ *journal.Import }

// Write implements image.Sink.
func (s importSink) Write(p []byte, off int64) error { return s.WriteAt(p, off) }

// Zero implements image.Sink.
func (importSink) Zero(int64, int64) error { return nil }

func importResult(d importDocument) result {
	return result{
		document: d,
		names:    []string{d.Store},
		show: func(p *page) {
			what := "its file is the store's base image now"
			if d.Copied {
				what = "it was copied and stays as it is"
			}
			p.line("imported %s: %s", d.Image, what)
			p.fields([]field{{"Store", text(d.Store)}, {"Volume", text(d.Volume)}, {"Size", text(iecSigned(d.SizeBytes))}})
		},
	}
}
