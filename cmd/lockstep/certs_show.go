package main

import "github.com/spf13/cobra"

func (a *app) newCertsShowCommand() *cobra.Command {
	var output outputFlag
	command := &cobra.Command{
		Use:     "show DIR...",
		Short:   "Show the certificates of directories: site, hosts, expiry, fingerprint",
		Example: `  lockstep certs show tls tls/a tls/b`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return misuse("DIR is missing")
			}
			return nil
		},
		RunE: a.runs(func(_ *cobra.Command, args []string) error {
			return a.printCertificates(&output, args...)
		}),
	}
	output.register(command)
	return command
}
