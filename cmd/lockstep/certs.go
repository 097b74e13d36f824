package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-csi/lockstep/cmd/roleflags"
	"github.com/lockstep-csi/lockstep/internal/certs"
)

// certsDocument is the output of every certs command.
type certsDocument struct {
	Certificates []certificateDocument `json:"certificates"`
}

type certificateDocument struct {
	File        string   `json:"file"`
	Authority   bool     `json:"authority"`
	Site        string   `json:"site"`
	Role        string   `json:"role"` // inside the site's cluster; empty: between sites
	Hosts       []string `json:"hosts"`
	Fingerprint string   `json:"fingerprint"`
	NotBefore   string   `json:"notBefore"`
	NotAfter    string   `json:"notAfter"`
}

// expirySoon is when a table begins to warn of the end of a certificate.
const expirySoon = 30 * day

func (a *app) newCertsCommand() *cobra.Command {
	var out string
	var sites []string
	var force bool
	var output outputFlag
	command := a.parent("certs", "Make the certificates that sites know each other by",
		a.newCertsInitCommand(),
		a.newCertsIssueCommand(),
		a.newCertsShowCommand(),
	)
	command.Long = `Makes one authority and a certificate for each site, for mutual TLS. In one step,
as below, DIR gets the authority and DIR/NAME what site NAME needs: ca.crt,
tls.crt and tls.key. An authority that is in DIR already signs further sites.

Copy DIR/NAME to the site and pass it as --tls-dir. Keep ca.key away from the
sites. The authority is valid 10 years and a certificate one year; a running site
takes up files that are replaced.`
	command.Example = `  lockstep certs --out tls --site a=10.0.0.1 --site b=10.0.0.2,b.example.org`
	parentRun := command.RunE
	command.RunE = a.runs(func(command *cobra.Command, args []string) error {
		if len(args) > 0 || command.Flags().NFlag() == 0 {
			return parentRun(command, args)
		}
		if err := roleflags.Require(map[string]string{"--out": out, "--site": strings.Join(sites, " ")}); err != nil {
			return err
		}
		return a.makeCertificates(&output, out, sites, force)
	})
	flags := command.Flags()
	flags.StringVar(&out, "out", "", "directory for the authority and one directory for each site")
	flags.StringArrayVar(&sites, "site", nil, "site as NAME=HOST[,HOST...] or NAME, repeatable")
	registerForce(command, &force, "replace the sites' files that are there; an authority is never replaced here")
	output.register(command)
	return command
}

func registerForce(command *cobra.Command, force *bool, usage string) {
	command.Flags().BoolVar(force, "force", false, usage)
}

// makeCertificates does all of it in one step. Everything is checked, and every
// certificate signed, before the first file is written.
func (a *app) makeCertificates(output *outputFlag, out string, texts []string, force bool) error {
	requests, err := a.parseSites(texts)
	if err != nil {
		return err
	}
	authority, made, err := a.loadOrMakeAuthority(out)
	if err != nil {
		return err
	}
	identities := make([]*certs.Identity, 0, len(requests))
	for _, request := range requests {
		if !force {
			if err := refuseExisting(filepath.Join(out, request.Site), certs.AuthorityFile, certs.CertFile, certs.KeyFile); err != nil {
				return err
			}
		}
		identity, err := authority.Issue(request)
		if err != nil {
			return misuse("--site: %v", err)
		}
		identities = append(identities, identity)
	}
	if made {
		if err := authority.Save(out, false); err != nil {
			return err
		}
	}
	dirs := []string{out}
	for i, identity := range identities {
		dir := filepath.Join(out, requests[i].Site)
		if err := identity.Save(dir, force); err != nil {
			return err
		}
		dirs = append(dirs, dir)
	}
	return a.printCertificates(output, dirs...)
}

func (a *app) parseSites(texts []string) ([]certs.Request, error) {
	var requests []certs.Request
	seen := map[string]bool{}
	for _, text := range texts {
		name, list, listed := strings.Cut(text, "=")
		if err := certs.ValidateSite(name); err != nil {
			return nil, misuse("--site %q: %v", text, err)
		}
		if seen[name] {
			return nil, misuse("--site %s is given twice: list its hosts as %s=HOST,HOST", name, name)
		}
		seen[name] = true
		request := certs.Request{Site: name, Now: a.now()}
		if listed {
			request.Hosts = strings.Split(list, ",")
		}
		requests = append(requests, request)
	}
	return requests, nil
}

// loadOrMakeAuthority returns the authority of dir, or a new one that is not
// saved yet. Half an authority is an error: a new one would orphan the sites
// that trust the certificate which is left.
func (a *app) loadOrMakeAuthority(dir string) (authority *certs.Authority, made bool, err error) {
	if certs.CheckAbsent(dir, certs.AuthorityFile, certs.AuthorityKeyFile) == nil {
		authority, err = certs.NewAuthority(a.now())
		return authority, true, err
	}
	authority, err = certs.LoadAuthority(dir)
	return authority, false, err
}

// refuseExisting returns a sentence that names the first file in the way.
func refuseExisting(dir string, names ...string) error {
	err := certs.CheckAbsent(dir, names...)
	if errors.Is(err, certs.ErrExists) {
		return &existsError{err}
	}
	return err
}

// existsError tells what to do about certs.ErrExists.
type existsError struct{ cause error }

func (e *existsError) Error() string { return e.cause.Error() + ": pass --force to replace it" }
func (e *existsError) Unwrap() error { return e.cause }

// printCertificates shows what is in dirs now, read back from the files.
func (a *app) printCertificates(output *outputFlag, dirs ...string) error {
	var infos []certs.Info
	for _, dir := range dirs {
		found, err := certs.Inspect(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return misuse("%s holds no certificates: %s is missing", dir, certs.AuthorityFile)
		}
		if err != nil {
			return err
		}
		infos = append(infos, found...)
	}
	r := result{
		document: certsDocument{each(infos, certificateOf)},
		show:     func(p *page) { p.showCertificates(infos) },
	}
	for _, info := range infos {
		r.names = append(r.names, info.File)
	}
	return a.print(output, r)
}

func certificateOf(info certs.Info) certificateDocument {
	return certificateDocument{
		File: info.File, Authority: info.Authority, Site: info.Site, Role: string(info.Role), Hosts: append([]string{}, info.Hosts...), Fingerprint: info.Fingerprint,
		NotBefore: info.NotBefore.UTC().Format(time.RFC3339), NotAfter: info.NotAfter.UTC().Format(time.RFC3339),
	}
}

func (p *page) showCertificates(infos []certs.Info) {
	columns := []column{left("FILE"), left("FOR"), left("HOSTS"), left("EXPIRES"), right("IN"), left("SHA-256")}
	var rows [][]cell
	for _, info := range infos {
		whom := "authority"
		if !info.Authority {
			whom = firstOf(info.Site, "no site")
		}
		if info.Role != "" {
			whom = fmt.Sprintf("%s of %s", info.Role, info.Site)
		}
		rows = append(rows, []cell{
			text(info.File), text(whom), text(strings.Join(info.Hosts, ",")),
			text(info.NotAfter.UTC().Format(time.RFC3339)), p.remaining(info.NotAfter), text(info.Fingerprint),
		})
	}
	p.table("", columns, rows)
}

func (p *page) remaining(end time.Time) cell {
	switch left := end.Sub(p.now); {
	case left <= 0:
		return cell{"EXPIRED", toneBad}
	case left < expirySoon:
		return cell{span(left), toneNote}
	default:
		return text(span(left))
	}
}
