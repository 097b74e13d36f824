package journal

import "context"

// RunReport is an index run. Nothing depends on it: a damaged one, which a power
// loss can leave as well, is dropped by whoever meets it and made again.
type RunReport struct {
	File     string `json:"file"`
	First    uint64 `json:"first"` // ids of the segments that it can have
	Last     uint64 `json:"last"`
	Extents  int64  `json:"extents"`
	Segments int    `json:"segments"`         // that were merged
	Damage   string `json:"damage,omitempty"` // what is wrong with it
}

// verifyRuns reads every index run and checks its checksums, and that it was
// made of the segments that there are.
func (in *inspector) verifyRuns(ctx context.Context) error {
	for _, key := range in.s.runs.keys() {
		if err := ctx.Err(); err != nil {
			return err
		}
		r := RunReport{File: key.name(), First: uint64(key.start), Last: uint64(key.end() - 1)}
		if err := in.verifyRun(key, &r); err != nil {
			if !isUseless(err) {
				return err
			}
			r.Damage = err.Error()
		}
		in.report.IndexRuns = append(in.report.IndexRuns, r)
	}
	return nil
}

func (in *inspector) verifyRun(key runKey, report *RunReport) error {
	r, err := openRun(&in.s.cfg, in.s.volume, key, in.s.runs.cache)
	if err != nil {
		return err
	}
	defer r.file.Close()
	report.Extents, report.Segments = r.header.extents, len(r.segments)
	if !in.s.areCurrent(r.segments) {
		return errStaleRun
	}
	c := r.cursor()
	var end uint64
	for {
		e, ok, err := c.next()
		if err != nil || !ok {
			return err
		}
		if e.start() < end {
			return &CorruptError{File: r.name, What: "index run", Wanted: "ascending extents", Found: "others"}
		}
		end = e.end()
	}
}
