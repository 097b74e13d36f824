package harness

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Ledger is clients that each insert orders 1, 2, 3, …, every one in a
// transaction of its own and only after the one before was acknowledged, and
// note when the acknowledgement came.
type Ledger struct {
	table    string
	database Server
	stop     context.CancelFunc
	joined   sync.WaitGroup

	mu       sync.Mutex
	sessions []ledgerSession // by session number
}

// Server is a database server, wherever it runs.
type Server interface {
	// Query runs SQL in Database and returns the rows, fields separated by "|".
	Query(ctx context.Context, sql string) (string, error)
	// Session runs psql in Database. It reads statements from in until that
	// ends, writes their rows to out, and stops at the first that fails. It
	// returns when psql has ended or ctx has; the error has psql's complaints.
	Session(ctx context.Context, in io.Reader, out io.Writer) error
}

type ledgerSession struct {
	acked []time.Time // of order i+1
	err   error       // why the session ended before Stop
}

// CreateLedger makes a table for a ledger.
func (p *Postgres) CreateLedger(ctx context.Context, table string) error {
	return CreateLedger(ctx, p, table)
}

// CreateLedger makes a table for a ledger on a server.
func CreateLedger(ctx context.Context, on Server, table string) error {
	_, err := on.Query(ctx, `CREATE TABLE `+table+` (session int, seq bigint, placed timestamptz DEFAULT clock_timestamp(), PRIMARY KEY (session, seq))`)
	return err
}

// StartLedger starts sessions clients on a table that CreateLedger made. It belongs to the
// caller, who calls Stop; the Env's Close does so as well.
func (p *Postgres) StartLedger(table string, sessions int) *Ledger {
	l := StartLedger(p, table, sessions)
	p.env.Undo(func() error { l.Stop(); return nil })
	return l
}

// StartLedger starts sessions clients on a table of a server. It belongs to
// the caller, who calls Stop.
func StartLedger(on Server, table string, sessions int) *Ledger {
	ctx, stop := context.WithCancel(context.Background())
	l := &Ledger{table: table, database: on, stop: stop, sessions: make([]ledgerSession, sessions)}
	for i := range sessions {
		l.joined.Go(func() {
			err := l.session(ctx, i)
			l.mu.Lock()
			defer l.mu.Unlock()
			if ctx.Err() == nil {
				l.sessions[i].err = err
			}
		})
	}
	return l
}

// session is one client: a psql that is fed one statement at a time. psql
// prints the row after the server's command completion, which the server
// sends after the commit.
func (l *Ledger) session(ctx context.Context, session int) error {
	// A process can have this pipe itself, and then no copying holds up its end.
	statements, in, err := os.Pipe()
	if err != nil {
		return err
	}
	out, rows := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := l.database.Session(ctx, statements, rows)
		// Nobody reads statements or writes rows any more.
		ended <- errors.Join(err, statements.Close(), rows.Close())
	}()
	err = l.insert(session, in, bufio.NewReader(out))
	return errors.Join(err, in.Close(), out.Close(), <-ended)
}

func (l *Ledger) insert(session int, in io.Writer, out *bufio.Reader) error {
	for seq := 1; ; seq++ {
		if _, err := fmt.Fprintf(in, "INSERT INTO %s VALUES (%d, %d) RETURNING seq;\n", l.table, session, seq); err != nil {
			return err
		}
		line, err := out.ReadString('\n')
		if err != nil {
			return err
		}
		if strings.TrimSpace(line) != strconv.Itoa(seq) {
			return fmt.Errorf("order %d of session %d was answered with %q", seq, session, line)
		}
		l.mu.Lock()
		l.sessions[session].acked = append(l.sessions[session].acked, time.Now())
		l.mu.Unlock()
	}
}

// Stop ends the clients in the midst of what they do and waits for them.
func (l *Ledger) Stop() {
	l.stop()
	l.joined.Wait()
}

// Err says why sessions ended by themselves; nil if none did.
func (l *Ledger) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for i, s := range l.sessions {
		if s.err != nil {
			errs = append(errs, fmt.Errorf("ledger session %d: %w", i, s.err))
		}
	}
	return errors.Join(errs...)
}

// Acked counts the orders acknowledged so far.
func (l *Ledger) Acked() int { return l.AckedBefore(time.Now()) }

// AckedBefore counts the orders acknowledged before a moment.
func (l *Ledger) AckedBefore(t time.Time) int {
	n := 0
	for _, c := range l.ackedBefore(t) {
		n += c
	}
	return n
}

func (l *Ledger) ackedBefore(t time.Time) []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := make([]int, len(l.sessions))
	for i, s := range l.sessions {
		for counts[i] < len(s.acked) && s.acked[counts[i]].Before(t) {
			counts[i]++
		}
	}
	return counts
}

// LastAcked is when the newest acknowledgement came; zero: there is none.
func (l *Ledger) LastAcked() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	var last time.Time
	for _, s := range l.sessions {
		if n := len(s.acked); n > 0 && s.acked[n-1].After(last) {
			last = s.acked[n-1]
		}
	}
	return last
}

// LongestPause is the longest time between two acknowledgements of one
// session in [from, to).
func (l *Ledger) LongestPause(from, to time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	var longest time.Duration
	for _, s := range l.sessions {
		last := from
		for _, at := range s.acked {
			if at.After(from) && at.Before(to) {
				longest, last = max(longest, at.Sub(last)), at
			}
		}
		longest = max(longest, to.Sub(last))
	}
	return longest
}

// LedgerFound is what a server's ledger held when it was checked.
type LedgerFound struct {
	Present  int // orders in the table
	Acked    int // of them acknowledged before the recovery point
	AckedAll int // acknowledged ever, before and after the point
}

// Check compares a server's table with what was acknowledged: per session it
// must hold a prefix without gaps, with every order that was acknowledged
// before the recovery point's time, and none that was never sent.
func (l *Ledger) Check(ctx context.Context, on Server, point time.Time) (LedgerFound, error) {
	rows, err := on.Query(ctx, "SELECT session, count(*), max(seq) FROM "+l.table+" GROUP BY session")
	if err != nil {
		return LedgerFound{}, err
	}
	wanted, all := l.ackedBefore(point), l.ackedBefore(time.Now())
	present := make([]int, len(wanted))
	for line := range strings.Lines(rows) {
		var session, count, most int
		if _, err := fmt.Sscanf(strings.ReplaceAll(line, "|", " "), "%d %d %d", &session, &count, &most); err != nil || session >= len(present) {
			return LedgerFound{}, fmt.Errorf("ledger row %q: %w", line, err)
		}
		if count != most {
			return LedgerFound{}, fmt.Errorf("ledger session %d has a gap: %d orders, the last is %d", session, count, most)
		}
		present[session] = count
	}
	var found LedgerFound
	for i := range wanted {
		if present[i] < wanted[i] {
			return found, fmt.Errorf("ledger session %d: order %d was acknowledged before %s and is missing: only %d are there",
				i, wanted[i], point.Format(time.RFC3339Nano), present[i])
		}
		if present[i] > all[i]+1 { // one may have been committed and not acknowledged
			return found, fmt.Errorf("ledger session %d holds %d orders, and only %d were sent", i, present[i], all[i]+1)
		}
		found.Present, found.Acked, found.AckedAll = found.Present+present[i], found.Acked+wanted[i], found.AckedAll+all[i]
	}
	return found, nil
}
