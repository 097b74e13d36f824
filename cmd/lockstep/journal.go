package main

import (
	"path/filepath"

	"github.com/spf13/cobra"
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

// storeDir returns the store that a person named as an absolute path.
func storeDir(arg string) (string, error) {
	dir, err := filepath.Abs(arg)
	if err != nil {
		return "", misuse("%s: %v", arg, err)
	}
	return dir, nil
}
