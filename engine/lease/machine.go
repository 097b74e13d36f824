package lease

import "time"

const (
	// RenewEvery is the time between the starts of two renewals.
	RenewEvery = 10 * time.Second
	// Validity is how long a holder may go on after the start of a renewal
	// that succeeded.
	Validity = 30 * time.Second
	// Takeover is how long a version must have been seen unchanged.
	Takeover = 40 * time.Second
	// RequestTimeout bounds one request.
	RequestTimeout = 5 * time.Second
	// retryEvery is the time between two tries, and between two looks at a
	// lease that somebody else holds.
	retryEvery = 2 * time.Second
)

// Record is the lease as it is stored.
type Record struct {
	Holder  string // empty: released
	Version string // another one after each write
}

// action is what a machine wants next.
type action struct {
	kind kind
	at   time.Duration // of the machine's clock, for wait
	// from is the version that a write replaces.
	from string
}

type kind int

const (
	wait kind = iota
	read
	write
	end
)

// machine is one contender. All times are of its own clock.
type machine struct {
	id    string
	known bool // seen is what was read or written last
	seen  Record
	since time.Duration // when seen was first seen

	held       bool          // the last write that succeeded was ours
	lost       bool          // somebody else took it over
	validUntil time.Duration // meaningful while held
	nextTry    time.Duration
}

// next says what to do at a time.
func (m *machine) next(now time.Duration) action {
	switch {
	case m.lost:
		return action{kind: end}
	case now < m.nextTry:
		return action{kind: wait, at: m.nextTry}
	case !m.known:
		return action{kind: read}
	case m.held, m.seen.Holder == "", m.seen.Holder == m.id:
		return action{kind: write, from: m.seen.Version}
	case now >= m.since+Takeover:
		return action{kind: write, from: m.seen.Version}
	}
	return action{kind: read}
}

// wasRead takes the answer to a read.
func (m *machine) wasRead(now time.Duration, found Record) {
	if m.held && found.Holder != m.id {
		m.lost, m.held = true, false
		return
	}
	if found != m.seen {
		m.since = now
	}
	m.known, m.seen, m.nextTry = true, found, now
	if !m.held && found.Holder != "" && found.Holder != m.id && now < m.since+Takeover {
		m.nextTry = min(now+retryEvery, m.since+Takeover)
	}
}

// wasWritten takes the answer to a write that began at started.
func (m *machine) wasWritten(started, now time.Duration, written Record) {
	m.known, m.seen, m.since = true, written, now
	m.held, m.validUntil, m.nextTry = true, started+Validity, started+RenewEvery
}

// wasOvertaken takes a write that failed because the version is another one. An
// earlier write of ours whose answer was lost may be the reason.
func (m *machine) wasOvertaken(now time.Duration) {
	// What was seen stays, so that its time goes on if it is still there.
	m.known, m.nextTry = false, now
}

// failed takes a request without an answer. Whether a write was carried out is
// not known: it is tried again with the same version, or overtaken by itself.
func (m *machine) failed(now time.Duration) { m.nextTry = now + retryEvery }

// valid reports whether the holder may write.
func (m *machine) valid(now time.Duration) bool { return m.held && now < m.validUntil }
