package journal

// The file system of a journal of its own is watched: it holds nothing that
// destage does not free, so before it is full the oldest history goes, a batch
// at a time, even within the budget. With the base beside it nothing would be
// won by that: what leaves the journal takes room there first.

// lowRoomSegments and lowRoomPart are when the room is low: fewer than so many
// new segments fit, or less than this part of the file system is free, whichever
// is less.
const (
	lowRoomSegments = 8
	lowRoomPart     = 8
)

// lowRoom is below which free bytes a file system of so many is nearly full.
func (s *Store) lowRoom(total int64) int64 {
	return min(total/lowRoomPart, lowRoomSegments*s.cfg.SegmentBytes)
}

// isNearlyFull reports whether the journal's file system is, as far as that can be told.
// Files that are kept for reuse are free.
func (s *Store) isNearlyFull() bool {
	total, free, err := s.cfg.FS.Space(s.cfg.file(journalDir))
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	return err == nil && free+int64(s.reusable())*s.cfg.SegmentBytes < s.lowRoom(total)
}

// watchRoom looks how much a journal of its own is short of room. What cannot be
// told is as good as enough: an append that finds none says so.
func (s *Store) watchRoom() {
	if s.cfg.JournalDir == "" {
		return
	}
	total, free, err := s.cfg.FS.Space(s.cfg.JournalDir)
	if err != nil {
		s.cfg.Log.Warn("free space of the journal is not known", "volume", s.volume, "error", err)
		return
	}
	s.spareMu.Lock()
	free += int64(s.reusable()) * s.cfg.SegmentBytes
	s.spareMu.Unlock()
	short := max(0, s.lowRoom(total)-free)
	if before := s.roomShort.Swap(short); short > 0 && before == 0 {
		s.cfg.Log.Warn("the journal's file system is nearly full: the oldest history is given up", "volume", s.volume, "freeBytes", free, "totalBytes", total)
		s.wakeRun()
	}
}
