package holder

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
)

// Names in the holder's directory. None can be a volume's: volume ids do not
// begin with a dot.
const (
	lockFile   = ".lock"
	idFile     = ".id"
	recordsDir = ".volumes"
)

// directoryID is the random identity of a holder's directory, made once and
// kept for as long as the directory exists. It is in the names of the files that
// loop devices are attached to, because the kernel shows a device to everyone on
// the machine, and of its file only the name for certain: holders of two
// directories (two nodes in containers of one machine) must not take each
// other's devices for their own.
type directoryID string

const directoryIDBytes = 6

// loadDirectoryID reads the identity of dir, and makes one if there is none. The
// caller has the directory's lock. It need not survive a power loss: neither do
// loop devices.
func loadDirectoryID(dir string) (directoryID, error) {
	path := filepath.Join(dir, idFile)
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read identity of holder directory: %w", err)
	}
	id := strings.TrimSpace(string(text))
	if raw, err := hex.DecodeString(id); err == nil && len(raw) == directoryIDBytes {
		return directoryID(id), nil
	}
	raw := make([]byte, directoryIDBytes)
	_, _ = rand.Read(raw) // never fails, crypto/rand
	id = hex.EncodeToString(raw)
	if err := replaceFile(path, []byte(id+"\n")); err != nil {
		return "", fmt.Errorf("write identity of holder directory: %w", err)
	}
	return directoryID(id), nil
}

// fileName is the name by which the file of one mount of a volume is opened.
// Neither another volume nor another mount of this one has the same while the
// device exists: the number of a connection is used again only after the last
// device over it is gone.
func (id directoryID) fileName(volume string, connection uint32) string {
	return fmt.Sprintf("%s-%s-%d-%s", fuse.FileName, id, connection, volume)
}

// parseFileName undoes fileName for the names of this directory.
func (id directoryID) parseFileName(name string) (volume string, connection uint32, ours bool) {
	rest, ours := strings.CutPrefix(name, fmt.Sprintf("%s-%s-", fuse.FileName, id))
	number, volume, found := strings.Cut(rest, "-")
	n, err := strconv.ParseUint(number, 10, 32)
	return volume, uint32(n), ours && found && err == nil
}

// replaceFile makes path have content, all or not at all.
func replaceFile(path string, content []byte) error {
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
