package main

import (
	"github.com/spf13/cobra"

	"github.com/lockstep-csi/lockstep/cmd/roleflags"
	"github.com/lockstep-csi/lockstep/internal/certs"
)

func (a *app) newCertsInitCommand() *cobra.Command {
	var dir string
	var force bool
	var output outputFlag
	command := &cobra.Command{
		Use:   "init --dir DIR",
		Short: "Make an authority",
		Args:  wantArgs(),
		RunE: a.runs(func(*cobra.Command, []string) error {
			if err := roleflags.Require(map[string]string{"--dir": dir}); err != nil {
				return err
			}
			if !force {
				if err := refuseExisting(dir, certs.AuthorityFile, certs.AuthorityKeyFile); err != nil {
					return err
				}
			}
			authority, err := certs.NewAuthority(a.now())
			if err != nil {
				return err
			}
			if err := authority.Save(dir, force); err != nil {
				return err
			}
			return a.printCertificates(&output, dir)
		}),
	}
	command.Flags().StringVar(&dir, "dir", "", "directory for ca.crt and ca.key")
	registerForce(command, &force, "replace an authority; every certificate that the old one signed must then be issued again")
	output.register(command)
	return command
}
