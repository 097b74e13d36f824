package journal

// MaxBatch is how many writes WriteBatch takes at most.
const MaxBatch = 32

// BatchWrite is one write of a batch.
type BatchWrite struct {
	Offset int64
	Data   []byte // whole sectors, at most MaxPayloadBytes
}

// payloadSums is what sumPayload returns.
type payloadSums struct {
	crc   uint32
	parts []uint32
}

// WriteBatch appends writes in their order, as if Write had been called for
// each, but with one system call for as many as fit a segment: what it costs is
// mostly the call. On an error a prefix of them may have been appended.
// Visibility, durability and errors as Write; ErrRange also for more than
// MaxBatch writes.
func (s *Store) WriteBatch(writes []BatchWrite) error {
	if len(writes) > MaxBatch {
		return ErrRange
	}
	var sums [MaxBatch]payloadSums
	for i, w := range writes {
		if err := s.checkRange(w.Offset, int64(len(w.Data))); err != nil {
			return err
		}
		if len(w.Data) > MaxPayloadBytes {
			return ErrRange
		}
		sums[i].crc, sums[i].parts = sumPayload(w.Data)
	}
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	for done := 0; done < len(writes); {
		tip, err := s.readyToAppend()
		if err != nil {
			return err
		}
		n, err := s.appendWrites(writes[done:], sums[done:], tip)
		if err != nil {
			return err
		}
		done += n
	}
	return nil
}

// appendWrites appends the first of the writes and those behind it that fit
// the same segment, and returns how many. appendMu must be held.
func (s *Store) appendWrites(writes []BatchWrite, sums []payloadSums, tip Position) (int, error) {
	s.records = s.records[:0]
	defer func() { clear(s.records) }() // payloads are the callers'
	var room int64
	for i, w := range writes {
		r := Record{
			Kind: KindWrite, Position: Position{tip.Timeline, tip.Seq + 1 + Seq(i)}, Offset: w.Offset, Length: int64(len(w.Data)),
			Payload: w.Data, PayloadCRC: sums[i].crc, parts: sums[i].parts,
		}
		if i == 0 {
			if err := s.room(&r); err != nil {
				return 0, err
			}
			room = s.active.freeBytes()
		}
		if room -= frameBytes(len(w.Data)) + changeFooterBytes; room < 0 && i > 0 {
			break
		}
		s.records = append(s.records, r)
	}
	whole, err := s.writeFrames(s.records)
	if whole == 0 {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.showLocked(s.records[:whole])
	return whole, nil // the next call meets the error again
}
