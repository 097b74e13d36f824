package main

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lockstep-csi/lockstep/cmd/roleflags"
)

// newHolderCommand runs the process that keeps device descriptors while an
// engine is replaced. Sites start it; it is hidden because nobody else should.
func (a *app) newHolderCommand() *cobra.Command {
	var socket, dir string
	var log logFlags
	command := &cobra.Command{
		Use:    "holder --socket PATH --dir DIR",
		Short:  "Hold device descriptors so that an engine can be replaced under I/O",
		Hidden: true,
		Args:   wantArgs(),
		RunE: a.runs(func(command *cobra.Command, _ []string) error {
			if err := roleflags.Require(map[string]string{"--socket": socket, "--dir": dir}); err != nil {
				return err
			}
			if !filepath.IsAbs(socket) || !filepath.IsAbs(dir) {
				return misuse("--socket and --dir must be absolute paths")
			}
			if err := validateSocketPath("--socket", socket); err != nil {
				return err
			}
			if err := log.install(a.stderr); err != nil {
				return err
			}
			return a.roles.holder(command.Context(), socket, dir)
		}),
	}
	command.Flags().StringVar(&socket, "socket", "", "Unix socket that engines fetch their descriptors from")
	command.Flags().StringVar(&dir, "dir", "", "directory for mount points and state")
	log.register(command)
	return command
}
