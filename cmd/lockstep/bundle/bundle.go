package bundle

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
)

// File is one that the caller has made.
type File struct {
	Name string // relative, with slashes
	Data []byte
}

// Config is what a bundle is made from.
type Config struct {
	Cluster *cluster.Cluster
	// Driver is the CSI driver's name.
	Driver string
	// Name of the folder that the archive has everything in.
	Name string
	Now  time.Time
	// Files are added as they are.
	Files []File
	// Problems are what the caller could not find out.
	Problems []string
}

// problemsFile lists what is missing in a bundle.
const problemsFile = "problems.txt"

// writer is a bundle that is being written.
type writer struct {
	Config
	archive  *tar.Writer
	problems []string
	logBytes int64 // of all logs so far
}

// Write writes a gzipped tar archive. It returns what could not be gathered,
// which is in the archive too; an error is one of w or of ctx.
func Write(ctx context.Context, w io.Writer, c Config) ([]string, error) {
	zip := gzip.NewWriter(w)
	b := &writer{Config: c, archive: tar.NewWriter(zip), problems: c.Problems}
	for _, f := range c.Files {
		if err := b.add(f.Name, f.Data); err != nil {
			return nil, err
		}
	}
	for _, gather := range []func(context.Context) error{b.resources, b.secrets, b.logs} {
		if err := gather(ctx); err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	text := "nothing is missing\n"
	if len(b.problems) > 0 {
		text = strings.Join(b.problems, "\n") + "\n"
	}
	err := b.add(problemsFile, []byte(text))
	return b.problems, errors.Join(err, b.archive.Close(), zip.Close())
}

func (b *writer) add(name string, data []byte) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: path.Join(b.Name, name), Size: int64(len(data)), Mode: 0o600, ModTime: b.Now, Format: tar.FormatPAX}
	if err := b.archive.WriteHeader(header); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if _, err := b.archive.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// missing records what could not be gathered.
func (b *writer) missing(what string, err error) {
	b.problems = append(b.problems, what+": "+strings.Join(strings.Fields(err.Error()), " "))
}
