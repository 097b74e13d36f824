package harness

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Pgbench is a running pgbench.
type Pgbench struct {
	cmd    *exec.Cmd
	output *strings.Builder
	exited chan error
}

// PgbenchResult is what pgbench measured.
type PgbenchResult struct {
	TPS          float64
	Transactions int64
}

// StartPgbench runs pgbench's TPC-B-like transactions for a time. It belongs
// to the caller, who calls Wait or Kill.
func (p *Postgres) StartPgbench(clients int, during time.Duration) (*Pgbench, error) {
	b := &Pgbench{output: &strings.Builder{}, exited: make(chan error, 1)}
	b.cmd = p.command(context.Background(), "pgbench", append(p.connection(), "--no-vacuum", "--client", strconv.Itoa(clients), "--jobs", "1",
		"--time", strconv.Itoa(int(during.Round(time.Second)/time.Second)), Database)...)
	b.cmd.Stdout, b.cmd.Stderr = b.output, b.output
	if err := b.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start pgbench: %w", err)
	}
	go func() { b.exited <- b.cmd.Wait() }()
	p.env.Undo(func() error { b.Kill(); return nil })
	return b, nil
}

// Wait waits for the end and returns the result; an error if a transaction
// failed.
func (b *Pgbench) Wait() (PgbenchResult, error) {
	if err := <-b.exited; err != nil {
		b.exited <- err
		return PgbenchResult{}, fmt.Errorf("pgbench: %w: %s", err, b.output)
	}
	b.exited <- nil
	return ParsePgbench(b.output.String())
}

// ParsePgbench reads what pgbench prints at its end.
func ParsePgbench(output string) (PgbenchResult, error) {
	var r PgbenchResult
	tps := regexp.MustCompile(`(?m)^tps = ([0-9.]+)`).FindStringSubmatch(output)
	done := regexp.MustCompile(`(?m)^number of transactions actually processed: ([0-9]+)`).FindStringSubmatch(output)
	if tps == nil || done == nil {
		return r, fmt.Errorf("pgbench printed no result: %s", output)
	}
	var tpsErr, doneErr error
	r.TPS, tpsErr = strconv.ParseFloat(tps[1], 64)
	r.Transactions, doneErr = strconv.ParseInt(done[1], 10, 64)
	return r, errors.Join(tpsErr, doneErr)
}

// Kill ends it at once.
func (b *Pgbench) Kill() {
	_ = b.cmd.Process.Kill() // it may have ended
	b.exited <- <-b.exited
}

// Pgbench is StartPgbench and Wait.
func (p *Postgres) Pgbench(clients int, during time.Duration) (PgbenchResult, error) {
	b, err := p.StartPgbench(clients, during)
	if err != nil {
		return PgbenchResult{}, err
	}
	return b.Wait()
}

// CheckPgbench checks what pgbench's transactions keep: every one changes an
// account, a teller and a branch by the same amount and notes it.
func (p *Postgres) CheckPgbench(ctx context.Context) error { return CheckPgbench(ctx, p) }

// CheckPgbench is Postgres.CheckPgbench for any server.
func CheckPgbench(ctx context.Context, on Server) error {
	sums, err := on.Query(ctx, `SELECT (SELECT coalesce(sum(abalance),0) FROM pgbench_accounts), (SELECT coalesce(sum(tbalance),0) FROM pgbench_tellers),
		(SELECT coalesce(sum(bbalance),0) FROM pgbench_branches), (SELECT coalesce(sum(delta),0) FROM pgbench_history)`)
	if err != nil {
		return err
	}
	fields := strings.Split(sums, "|")
	for _, sum := range fields {
		if sum != fields[0] {
			return fmt.Errorf("balances of accounts, tellers, branches and history differ: %s", sums)
		}
	}
	return nil
}
