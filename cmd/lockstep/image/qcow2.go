package image

import (
	"encoding/binary"
	"fmt"
)

// Qcow2 is a file that holds the image in the qcow2 format; zeroes are not
// allocated.
//
// The file is written from front to back: clusters of data as they come, each
// mapping table behind the data that it leads to, at the end the table of those
// (L1), the reference counts, and last of all the header.
type Qcow2 struct {
	*File
	size int64
	end  int64 // clusters that are in use

	cluster []byte // content of the cluster at clusterAt, being gathered
	filled  bool   // something was gathered
	at      int64  // number of that cluster in the image

	table   []byte // L2 of the image's part number tableAt
	tableAt int64
	mapped  bool // it leads anywhere
	l1      []uint64
}

// NewQcow2 makes an empty file a qcow2 image of the given size.
func NewQcow2(f *File, sizeBytes int64) *Qcow2 {
	tables := (sizeBytes + tableSpanBytes - 1) / tableSpanBytes
	return &Qcow2{
		File: f, size: sizeBytes, end: 1,
		cluster: make([]byte, clusterBytes), table: make([]byte, clusterBytes), l1: make([]uint64, max(1, tables)),
	}
}

// Write implements Sink.
func (q *Qcow2) Write(p []byte, off int64) error {
	for len(p) > 0 {
		if at := off / clusterBytes; at != q.at {
			if err := q.flushCluster(); err != nil {
				return err
			}
			q.at = at
		}
		n := copy(q.cluster[off%clusterBytes:], p)
		q.filled = true
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// Zero implements Sink.
func (q *Qcow2) Zero(int64, int64) error { return nil }

// append writes whole clusters behind the last one, and returns their offset.
func (q *Qcow2) append(p []byte) (int64, error) {
	off := q.end * clusterBytes
	if _, err := q.file.WriteAt(p, off); err != nil {
		return 0, fmt.Errorf("write image: %w", err)
	}
	q.end += clusters(int64(len(p)))
	return off, nil
}

// flushCluster stores what was gathered of a cluster.
func (q *Qcow2) flushCluster() error {
	if !q.filled {
		return nil
	}
	if table := q.at / entriesPerTable; table != q.tableAt {
		if err := q.flushTable(); err != nil {
			return err
		}
		q.tableAt = table
	}
	off, err := q.append(q.cluster)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint64(q.table[q.at%entriesPerTable*entryBytes:], uint64(off)|copiedFlag)
	q.mapped = true
	clear(q.cluster)
	q.filled = false
	return nil
}

// flushTable stores a mapping table that is complete.
func (q *Qcow2) flushTable() error {
	if !q.mapped {
		return nil
	}
	off, err := q.append(q.table)
	if err != nil {
		return err
	}
	q.l1[q.tableAt] = uint64(off) | copiedFlag
	clear(q.table)
	q.mapped = false
	return nil
}

// Commit completes the image and gives the file its name; see File.Commit.
func (q *Qcow2) Commit() error {
	if err := q.finish(); err != nil {
		return q.fail("complete", err)
	}
	return q.File.Commit()
}

func (q *Qcow2) finish() error {
	if err := q.flushCluster(); err != nil {
		return err
	}
	if err := q.flushTable(); err != nil {
		return err
	}
	h := qcow2Header{sizeBytes: q.size, l1Entries: len(q.l1)}
	var err error
	if h.l1Offset, err = q.append(entries(q.l1)); err != nil {
		return err
	}
	if err := q.writeRefcounts(&h); err != nil {
		return err
	}
	if _, err := q.file.WriteAt(h.encode(), 0); err != nil {
		return fmt.Errorf("write header: %w", err)
	}
	// Tables end with whole clusters also where nothing was written there.
	return q.file.Truncate(q.end * clusterBytes)
}

// entries encodes a table.
func entries(values []uint64) []byte {
	b := make([]byte, 0, len(values)*entryBytes)
	for _, v := range values {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

// writeRefcounts writes a count of one for every cluster of the file, those of the
// counts included.
func (q *Qcow2) writeRefcounts(h *qcow2Header) error {
	blocks, table := refcountClusters(q.end)
	total := q.end + blocks + table
	offsets := make([]uint64, 0, blocks)
	block := make([]byte, clusterBytes)
	for i := range blocks {
		clear(block)
		for j := range min(countsPerBlock, total-i*countsPerBlock) {
			binary.BigEndian.PutUint16(block[j*refcountBytes:], 1)
		}
		off, err := q.append(block)
		if err != nil {
			return err
		}
		offsets = append(offsets, uint64(off))
	}
	off, err := q.append(entries(offsets))
	h.refcountTableOffset, h.refcountTableClusters = off, int(table)
	return err
}
