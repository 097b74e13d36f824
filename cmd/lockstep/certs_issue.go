package main

import (
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-csi/lockstep/cmd/roleflags"
	"github.com/lockstep-csi/lockstep/internal/certs"
)

// maxLeafDays is the authority's lifetime; a leaf cannot outlive it.
const maxLeafDays = 365 * certs.AuthorityYears

type certsIssueFlags struct {
	dir, site, out string
	hosts          []string
	days           int
	force          bool
	output         outputFlag
}

func (a *app) newCertsIssueCommand() *cobra.Command {
	var f certsIssueFlags
	command := &cobra.Command{
		Use:     "issue --dir DIR --site NAME",
		Short:   "Issue or renew the certificate of one site",
		Example: `  lockstep certs issue --dir tls --site b --host 10.0.0.2 --host b.example.org --force`,
		Args:    wantArgs(),
		RunE:    a.runs(func(*cobra.Command, []string) error { return a.issueCertificate(&f) }),
	}
	flags := command.Flags()
	flags.StringVar(&f.dir, "dir", "", "directory of the authority")
	flags.StringVar(&f.site, "site", "", "name of the site")
	flags.StringVar(&f.out, "out", "", "directory for ca.crt, tls.crt and tls.key (default DIR/NAME)")
	flags.StringArrayVar(&f.hosts, "host", nil, "IP address or DNS name of the site's gateway, repeatable")
	flags.IntVar(&f.days, "days", int(certs.DefaultLeafValidity/day), "how many days it is valid, up to the authority's own end")
	registerForce(command, &f.force, "replace the site's files that are there")
	f.output.register(command)
	return command
}

func (a *app) issueCertificate(f *certsIssueFlags) error {
	if err := roleflags.Require(map[string]string{"--dir": f.dir, "--site": f.site}); err != nil {
		return err
	}
	if f.days < 1 || f.days > maxLeafDays {
		return misuse("--days %d: want 1 to %d", f.days, maxLeafDays)
	}
	if err := certs.ValidateSite(f.site); err != nil {
		return misuse("--site: %v", err)
	}
	out := f.out
	if out == "" {
		out = filepath.Join(f.dir, f.site)
	}
	authority, err := certs.LoadAuthority(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return misuse("--dir %s holds no authority: make one with `%s certs init --dir %s`", f.dir, a.displayName(), f.dir)
	}
	if err != nil {
		return err
	}
	if !f.force {
		if err := refuseExisting(out, certs.AuthorityFile, certs.CertFile, certs.KeyFile); err != nil {
			return err
		}
	}
	identity, err := authority.Issue(certs.Request{Site: f.site, Hosts: f.hosts, Now: a.now(), Validity: time.Duration(f.days) * day})
	if errors.Is(err, certs.ErrHost) {
		return misuse("--host: %v", err)
	}
	if err != nil {
		return err
	}
	if err := identity.Save(out, f.force); err != nil {
		return err
	}
	return a.printCertificates(&f.output, out)
}
