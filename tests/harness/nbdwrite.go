package harness

import "fmt"

// Commands that change an export.
const (
	nbdCommandWrite  = 1
	nbdCommandFlush  = 3
	nbdCommandZeroes = 6
)

// WriteAt implements io.WriterAt; off and the length are multiples of 512. What
// was written is durable once Flush has returned.
func (c *NBD) WriteAt(p []byte, off int64) (int, error) {
	if err := c.do(nbdCommandWrite, off, len(p), p); err != nil {
		return 0, fmt.Errorf("write %d bytes at %d: %w", len(p), off, err)
	}
	return len(p), nil
}

// Zero has a range read as zeroes.
func (c *NBD) Zero(off int64, length int) error {
	if err := c.do(nbdCommandZeroes, off, length, nil); err != nil {
		return fmt.Errorf("zero %d bytes at %d: %w", length, off, err)
	}
	return nil
}

// Flush returns when everything acknowledged before is durable.
func (c *NBD) Flush() error {
	if err := c.do(nbdCommandFlush, 0, 0, nil); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}
