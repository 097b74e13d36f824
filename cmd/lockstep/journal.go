package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

func (a *app) newJournalCommand() *cobra.Command {
	command := a.parent("journal", "Work on a store offline",
		a.newJournalDumpCommand(),
		a.newJournalVerifyCommand(),
		a.newJournalExportCommand(),
		a.newJournalDrainCommand(),
		a.newJournalImportCommand(),
	)
	command.Long = `Works on the store of one volume, a directory with volume.json in it, without a site.
The volume must not be open. dump, verify and export write nothing to it.`
	return command
}

// storeFlags say where a store is, beside its directory.
type storeFlags struct{ journalDir string }

func (f *storeFlags) register(command *cobra.Command) {
	command.Flags().StringVar(&f.journalDir, "journal-dir", "", "directory of the store's journal, with journal.json in it, where that is not in STORE")
}

// store is the store that a person named; paths are absolute.
func (f *storeFlags) store(arg string) (journal.Config, error) {
	c := journal.Config{FS: vfs.OS{}}
	var err error
	if c.Dir, err = storeDir(arg); err != nil {
		return c, err
	}
	if err := checkNotVolumeDir(c.Dir); err != nil {
		return c, err
	}
	if f.journalDir == "" {
		return c, nil
	}
	if c.JournalDir, err = filepath.Abs(f.journalDir); err != nil {
		return c, misuse("--journal-dir %s: %v", f.journalDir, err)
	}
	return c, nil
}

// checkNotVolumeDir tells whoever names the directory of a volume, in a site's root,
// where its store is.
func checkNotVolumeDir(dir string) error {
	if isStoreDir(dir) {
		return nil
	}
	inside, _ := filepath.Glob(filepath.Join(dir, "store-*")) // the pattern is sound
	for _, name := range inside {
		if isStoreDir(name) {
			return fmt.Errorf("%s is the directory of a volume, and its store is %s", dir, name)
		}
	}
	return nil
}

// isStoreDir reports whether a directory has what makes it a store.
func isStoreDir(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "volume.json"))
	return err == nil
}

// storeDir returns the store that a person named as an absolute path.
func storeDir(arg string) (string, error) {
	dir, err := filepath.Abs(arg)
	if err != nil {
		return "", misuse("%s: %v", arg, err)
	}
	return dir, nil
}

// explainInUse adds what to do where a site has the store.
func explainInUse(err error, instead string) error {
	if errors.Is(err, journal.ErrInUse) {
		return fmt.Errorf("%w: stop its site, or %s", err, instead)
	}
	return err
}
