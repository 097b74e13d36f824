package vfs

import (
	"bytes"
	"errors"
	"path"
)

// ErrNoContent is returned by CorruptContent where no file has what is looked for.
var ErrNoContent = errors.New("no file has this content")

// CorruptContent is Corrupt of the first length bytes of content, in the first file of a
// directory that has it, and returns that file's base name.
func (m *Mem) CorruptContent(dir string, content []byte, length int64) (name string, err error) {
	names, err := m.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		all, err := m.contentOf(path.Join(dir, name))
		if err != nil {
			return "", err
		}
		if at := bytes.Index(all, content); at >= 0 {
			return name, m.Corrupt(path.Join(dir, name), int64(at), length)
		}
	}
	return "", wrap("corrupt", dir, ErrNoContent)
}

func (m *Mem) contentOf(name string) ([]byte, error) {
	f, err := m.OpenReadOnly(name)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	all := make([]byte, size)
	if err == nil && size > 0 {
		_, err = f.ReadAt(all, 0)
	}
	return all, errors.Join(err, f.Close())
}
