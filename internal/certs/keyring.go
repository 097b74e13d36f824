package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// keyring serves the newest good set of files of one site directory. There is
// no watcher: three stat calls at each handshake cost nothing next to the
// handshake, and there is no goroutine to own.
type keyring struct {
	dir string
	// fits refuses files of the wrong kind.
	fits func(*material) error

	mu     sync.Mutex // guards the fields below
	stamp  stamp
	loaded *material
	// refused is the last set that did not load, so that each is warned of
	// once and not at every handshake; nil after a good load.
	refused *stamp
}

// material is one consistent set of files; immutable.
type material struct {
	cert  tls.Certificate
	roots *x509.CertPool
	site  string
	role  Role // empty: between sites
}

// stamp tells one version of the files from another.
type stamp [3]fileStamp

type fileStamp struct {
	size     int64
	modified time.Time
	// info lets os.SameFile tell a file that was renamed into place from the
	// one before, when both size and time agree.
	info os.FileInfo
}

func openKeyring(dir string, fits func(*material) error) (*keyring, error) {
	k := &keyring{dir: dir, fits: fits}
	stamp, err := k.readStamp()
	if err != nil {
		return nil, fmt.Errorf("load certificates: %w", err)
	}
	loaded, err := loadMaterial(dir)
	if err == nil {
		err = fits(loaded)
	}
	if err != nil {
		return nil, fmt.Errorf("load certificates: %w", err)
	}
	k.stamp, k.loaded = stamp, loaded
	return k, nil
}

// current returns the set to use now. Files that do not load leave the last
// good set in use: a renewal that went wrong must not cut a working link before
// the old certificate ends.
func (k *keyring) current() *material {
	k.mu.Lock()
	defer k.mu.Unlock()
	// The stamp is taken before the files are read, so a change in between is
	// seen at the next call.
	now, err := k.readStamp()
	if err == nil && now.equal(k.stamp) {
		return k.loaded
	}
	var fresh *material
	if err == nil {
		fresh, err = loadMaterial(k.dir)
	}
	if err == nil {
		err = k.fits(fresh)
	}
	if err == nil && (fresh.site != k.loaded.site || fresh.role != k.loaded.role) {
		err = fmt.Errorf("certificate is of %s now, and was of %s: %w", fresh.owner(), k.loaded.owner(), ErrWrongSite)
	}
	if err != nil {
		if k.refused == nil || !now.equal(*k.refused) {
			slog.Warn("keep the certificates in use: the new ones do not load", "dir", k.dir, "error", err)
			k.refused = &now
		}
		return k.loaded
	}
	k.stamp, k.loaded, k.refused = now, fresh, nil
	return k.loaded
}

// readStamp returns the zero stamp with its error when a file is missing.
func (k *keyring) readStamp() (stamp, error) {
	var s stamp
	for i, name := range []string{AuthorityFile, CertFile, KeyFile} {
		info, err := os.Stat(filepath.Join(k.dir, name))
		if err != nil {
			return stamp{}, err
		}
		s[i] = fileStamp{size: info.Size(), modified: info.ModTime(), info: info}
	}
	return s, nil
}

func (s stamp) equal(other stamp) bool {
	for i := range s {
		a, b := s[i], other[i]
		if a.info == nil && b.info == nil {
			continue
		}
		if a.size != b.size || !a.modified.Equal(b.modified) || !os.SameFile(a.info, b.info) {
			return false
		}
	}
	return true
}

func loadMaterial(dir string) (*material, error) {
	authorities, err := readBundle(filepath.Join(dir, AuthorityFile))
	if err != nil {
		return nil, err
	}
	pair, _, err := readPair(dir)
	if err != nil {
		return nil, err
	}
	site, role, err := ownerOf(pair.Leaf)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, CertFile), err)
	}
	roots := x509.NewCertPool()
	for _, authority := range authorities {
		roots.AddCert(authority)
	}
	return &material{cert: pair, roots: roots, site: site, role: role}, nil
}

// readPair reads a directory's certificate, and finds its key among those of the key file,
// of which a renewal that was cut off leaves two; keyPEM is that key alone.
func readPair(dir string) (pair tls.Certificate, keyPEM []byte, err error) {
	certPEM, err := readFile(filepath.Join(dir, CertFile))
	if err != nil {
		return pair, nil, err
	}
	rest, err := readFile(filepath.Join(dir, KeyFile))
	if err != nil {
		return pair, nil, err
	}
	pair, first := tls.X509KeyPair(certPEM, rest)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return pair, nil, fmt.Errorf("pair %s with %s in %s: %w", CertFile, KeyFile, dir, first)
		}
		keyPEM = pem.EncodeToMemory(block)
		if pair, err = tls.X509KeyPair(certPEM, keyPEM); err == nil {
			return pair, keyPEM, nil
		}
	}
}

// ownerOf returns whom a certificate of either kind was issued to.
func ownerOf(cert *x509.Certificate) (site string, role Role, err error) {
	if site, role, err = RoleFromCert(cert); err == nil {
		return site, role, nil
	}
	site, err = SiteFromCert(cert)
	return site, "", err
}

func (m *material) owner() string {
	if m.role == "" {
		return "site " + m.site
	}
	return string(m.role) + " of site " + m.site
}

// siteMaterial refuses files that are not of a site.
func siteMaterial(m *material) error {
	if m.role != "" {
		return fmt.Errorf("%s is of %s: %w", CertFile, m.owner(), ErrNoSite)
	}
	return nil
}
