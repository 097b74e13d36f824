// Package image writes disk images: of a volume that something can read, into a
// raw file, a qcow2 file or a block device.
//
// Copy moves what a source has, in ascending order, into a sink, and leaves out
// what is zeroes. A file comes to be under its name only when it is whole and
// durable; until then it has a hidden name, and after a failure it is removed. A
// device must not be in use, and holds a part of the image after a failure.
//
// The qcow2 writer is this package's own, after the format's public specification
// (docs/interop/qcow2.rst of QEMU): version 3, clusters of 64 KiB, no
// compression, encryption, snapshots or backing file. Data, mapping tables and
// reference counts follow one another without gaps, so every cluster of the file
// has a reference count of one.
//
// The package starts no goroutines.
package image
