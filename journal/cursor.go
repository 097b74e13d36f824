package journal

// cursor yields disjoint extents in ascending order, each once.
type cursor interface {
	// next returns the next extent; ok is false at the end. With an error
	// neither means anything, and the cursor is not to be used again.
	next() (e extent, ok bool, err error)
}

// tableCursor yields a table.
type tableCursor struct{ rest table }

func (c *tableCursor) next() (extent, bool, error) {
	if len(c.rest) == 0 {
		return extent{}, false, nil
	}
	e := c.rest[0]
	c.rest = c.rest[1:]
	return e, true, nil
}

// overlayCursor merges two cursors as overlay merges two tables: where both
// map a sector, newer wins. It holds one extent of each.
type overlayCursor struct {
	older, newer cursor
	o, n         extent // the next ones, o without what was merged of it
	more         struct{ o, n bool }
	begun        bool
}

func (c *overlayCursor) advanceOlder() (err error) {
	c.o, c.more.o, err = c.older.next()
	return err
}

func (c *overlayCursor) advanceNewer() (err error) {
	c.n, c.more.n, err = c.newer.next()
	return err
}

func (c *overlayCursor) next() (extent, bool, error) {
	if !c.begun {
		c.begun = true
		if err := c.advanceOlder(); err != nil {
			return extent{}, false, err
		}
		if err := c.advanceNewer(); err != nil {
			return extent{}, false, err
		}
	}
	switch {
	case !c.more.n:
		e, ok := c.o, c.more.o
		if !ok {
			return extent{}, false, nil
		}
		return e, true, c.advanceOlder()
	case c.more.o && c.o.end() <= c.n.start():
		e := c.o
		return e, true, c.advanceOlder()
	case c.more.o && c.o.start() < c.n.start():
		e := c.o.slice(c.o.start(), c.n.start())
		c.o = c.o.slice(c.n.start(), c.o.end())
		return e, true, nil
	}
	e := c.n
	for c.more.o && c.o.end() <= e.end() {
		if err := c.advanceOlder(); err != nil {
			return extent{}, false, err
		}
	}
	if c.more.o && c.o.start() < e.end() {
		c.o = c.o.slice(e.end(), c.o.end())
	}
	return e, true, c.advanceNewer()
}

// overlayCursors merges cursors given from newest to oldest, as a balanced tree.
func overlayCursors(newestFirst []cursor) cursor {
	switch n := len(newestFirst); n {
	case 0:
		return &tableCursor{}
	case 1:
		return newestFirst[0]
	default:
		return &overlayCursor{newer: overlayCursors(newestFirst[:n/2]), older: overlayCursors(newestFirst[n/2:])}
	}
}
