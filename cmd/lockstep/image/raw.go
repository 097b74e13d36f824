package image

import "fmt"

// Raw is a file that holds the image as it is; zeroes are holes.
type Raw struct{ *File }

// NewRaw makes an empty file a raw image of the given size.
func NewRaw(f *File, sizeBytes int64) (Raw, error) {
	if err := f.file.Truncate(sizeBytes); err != nil {
		return Raw{}, fmt.Errorf("size %s: %w", f.name, err)
	}
	return Raw{f}, nil
}

// Write implements Sink.
func (r Raw) Write(p []byte, off int64) error {
	if _, err := r.file.WriteAt(p, off); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}

// Zero implements Sink: the file is new, and everything in it a hole.
func (r Raw) Zero(int64, int64) error { return nil }
