package journal

import "fmt"

// AppendRecords appends records that another site's store of this volume made,
// in their order. They must be on the active timeline and the first must
// follow the tip (ErrGap); payload checksums are verified again (ErrCorrupt).
// Records before the first that fails have been appended. A record beyond the
// volume's end grows it. Durability as Write; nothing of the records is kept.
func (s *Store) AppendRecords(records []Record) error {
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	s.dropLeap()
	for i := range records {
		if err := s.appendForeign(&records[i]); err != nil {
			return fmt.Errorf("append record %s: %w", records[i].Position, err)
		}
	}
	return nil
}

func (s *Store) appendForeign(r *Record) error {
	if err := s.beginAppend(); err != nil {
		return err
	}
	tip := s.Tip()
	if want := (Position{tip.Timeline, tip.Seq + 1}); r.Position != want {
		return fmt.Errorf("want %s: %w", want, ErrGap)
	}
	if err := r.verify(); err != nil {
		return err
	}
	switch r.Kind {
	case KindWrite, KindDiscard, KindZero:
		// Its source grew on a timeline that this store did not follow to
		// that point, and then forked before it.
		if err := s.grow(r.Offset + r.Length); err != nil {
			return err
		}
	}
	return s.appendRecord(r)
}

// verify checks a record that came from elsewhere. ErrCorrupt.
func (r *Record) verify() error {
	if err := r.validate(len(r.Payload)); err != nil {
		return err
	}
	if got := PayloadChecksum(r.Payload); got != r.PayloadCRC {
		return wireCorrupt("payload", fmt.Sprintf("crc %08x", r.PayloadCRC), fmt.Sprintf("crc %08x", got))
	}
	return nil
}
