package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// Original is a raw image, a file or a block device, that something is to be made
// of. It is a Source.
type Original struct {
	name   string
	device bool
	size   int64
	file   *os.File
	data   vfs.File // knows holes; nil for a device
}

var (
	// ErrOpen: somebody has the file open, a loop device for example.
	ErrOpen = errors.New("file is open somewhere else")
	// ErrNotRaw: it has the format of another kind of image.
	ErrNotRaw = errors.New("not a raw image")
	// ErrSectors: its size is not a multiple of 512 bytes, or nothing.
	ErrSectors = errors.New("size is not a multiple of 512 bytes above zero")
)

// OpenOriginal opens an image and checks that it can be one. ErrInUse, ErrOpen,
// ErrNotRaw, ErrSectors.
func OpenOriginal(name string) (*Original, error) {
	o := &Original{name: name, device: IsDevice(name)}
	if err := o.open(); err != nil {
		return nil, fmt.Errorf("open image %s: %w", name, errors.Join(err, o.Close()))
	}
	return o, nil
}

func (o *Original) open() (err error) {
	flags := os.O_RDONLY
	if o.device {
		flags |= unix.O_EXCL // claims it, see OpenDevice
	}
	if o.file, err = os.OpenFile(o.name, flags, 0); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return ErrInUse
		}
		return err
	}
	info, err := o.file.Stat()
	switch {
	case err != nil:
		return err
	case !o.device && !info.Mode().IsRegular():
		return errors.New("it is neither a file nor a block device")
	case !o.device && isOpen(o.file):
		return ErrOpen
	}
	if o.size, err = o.file.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	if o.size == 0 || o.size%journal.SectorBytes != 0 {
		return fmt.Errorf("%w: %d bytes", ErrSectors, o.size)
	}
	if err := checkRaw(o.file); err != nil || o.device {
		return err
	}
	o.data, err = vfs.OS{}.OpenReadOnly(o.name)
	return err
}

// isOpen reports whether a file is open beside this descriptor, in any process or
// in the kernel: then a lease cannot be had (F_SETLEASE in fcntl(2)). Where the
// file system has no leases, or the file is another user's, that stays unknown.
func isOpen(file *os.File) bool {
	fd := file.Fd()
	if _, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		return errors.Is(err, unix.EAGAIN)
	}
	_, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
	return err != nil
}

// otherFormats begin with these bytes.
var otherFormats = map[string][]byte{
	"qcow2": []byte("QFI\xfb"), "VMDK": []byte("KDMV"), "VHDX": []byte("vhdxfile"), "VHD": []byte("conectix"), "VDI": []byte("<<< "),
}

func checkRaw(file *os.File) error {
	begin := make([]byte, 8)
	if _, err := file.ReadAt(begin, 0); err != nil {
		return err
	}
	for format, magic := range otherFormats {
		if bytes.HasPrefix(begin, magic) {
			return fmt.Errorf("%w: it is %s: `qemu-img convert -O raw` makes one", ErrNotRaw, format)
		}
	}
	return nil
}

// IsDevice reports whether the image is a block device.
func (o *Original) IsDevice() bool { return o.device }

// Links is how many names the file has.
func (o *Original) Links() (int, error) {
	n, err := namesOf(o.file)
	if err != nil {
		return 0, fmt.Errorf("count names of image %s: %w", o.name, err)
	}
	return n, nil
}

// SizeBytes implements Source.
func (o *Original) SizeBytes() int64 { return o.size }

// NextData implements Source. Of a device nobody knows what is in it.
func (o *Original) NextData(off int64) (start, length int64, err error) {
	if o.device {
		return off, o.size - off, nil
	}
	start, length, err = o.data.NextData(off)
	if err != nil || length == 0 {
		return start, length, err
	}
	end := min(o.size, (start+length+journal.SectorBytes-1)&^(journal.SectorBytes-1))
	start &^= journal.SectorBytes - 1
	return start, end - start, nil
}

// ReadAt implements Source.
func (o *Original) ReadAt(p []byte, off int64) error {
	n, err := o.file.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	return fmt.Errorf("read %d bytes at offset %d of %s: %w", len(p), off, o.name, err)
}

// CloneTo makes a file share the image's blocks, where the file system can: a copy
// that takes no room and no time.
func (o *Original) CloneTo(f *File) error {
	if err := unix.IoctlFileClone(int(f.file.Fd()), int(o.file.Fd())); err != nil {
		return fmt.Errorf("clone %s: %w", o.name, err)
	}
	return nil
}

// Close lets go of the image.
func (o *Original) Close() error {
	var errs []error
	if o.file != nil {
		errs = append(errs, o.file.Close())
	}
	if o.data != nil {
		errs = append(errs, o.data.Close())
	}
	return errors.Join(errs...)
}
