package image

import "encoding/binary"

// Numbers of the qcow2 format. All integers in the file are big endian.
const (
	qcow2Magic       = 0x514649fb // "QFI\xfb"
	qcow2Version     = 3
	qcow2HeaderBytes = 104

	clusterBits  = 16
	clusterBytes = 1 << clusterBits
	entryBytes   = 8
	// entriesPerTable is how many clusters of data one mapping table (L2) leads
	// to, and how many entries a cluster of any table has.
	entriesPerTable = clusterBytes / entryBytes
	// refcountOrder 4: counts of 16 bits.
	refcountOrder  = 4
	refcountBytes  = 2
	countsPerBlock = clusterBytes / refcountBytes
	copiedFlag     = uint64(1) << 63 // the reference count is exactly one
	tableSpanBytes = entriesPerTable * clusterBytes
)

// qcow2Header is what the first cluster says.
type qcow2Header struct {
	sizeBytes             int64 // of the image that is shown
	l1Entries             int
	l1Offset              int64
	refcountTableOffset   int64
	refcountTableClusters int
}

// encode returns the header and, behind it, the end of the header extensions.
func (h *qcow2Header) encode() []byte {
	b := make([]byte, qcow2HeaderBytes+8)
	put32, put64 := binary.BigEndian.PutUint32, binary.BigEndian.PutUint64
	put32(b[0:], qcow2Magic)
	put32(b[4:], qcow2Version)
	put32(b[20:], clusterBits)
	put64(b[24:], uint64(h.sizeBytes))
	put32(b[36:], uint32(h.l1Entries))
	put64(b[40:], uint64(h.l1Offset))
	put64(b[48:], uint64(h.refcountTableOffset))
	put32(b[56:], uint32(h.refcountTableClusters))
	put32(b[96:], refcountOrder)
	put32(b[100:], qcow2HeaderBytes)
	return b // no backing file, encryption, snapshots, features, extensions
}

func clusters(bytes int64) int64 { return (bytes + clusterBytes - 1) / clusterBytes }

// refcountClusters returns how many clusters reference counts take in a file that
// has n clusters without them: blocks of counts, and the table that leads to
// those. They count themselves as well.
func refcountClusters(n int64) (blocks, table int64) {
	for {
		wantBlocks := (n + blocks + table + countsPerBlock - 1) / countsPerBlock
		wantTable := clusters(wantBlocks * entryBytes)
		if wantBlocks == blocks && wantTable == table {
			return blocks, table
		}
		blocks, table = wantBlocks, wantTable
	}
}
