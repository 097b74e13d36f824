package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-csi/lockstep/engine"
)

func TestRefuse(t *testing.T) {
	const size = 64 << 20
	full := negotiated{structured: true, allocation: true}
	cases := []struct {
		name     string
		request  request
		n        negotiated
		readOnly bool
		want     status
	}{
		{"read", request{command: cmdRead, length: 512}, full, true, statusOK},
		{"read up to the end", request{command: cmdRead, offset: size - 512, length: 512}, full, false, statusOK},
		{"read of the greatest size", request{command: cmdRead, length: maxRequestBytes}, full, false, statusOK},
		{"read too long", request{command: cmdRead, length: maxRequestBytes + 512}, full, false, statusInvalid},
		{"read beyond the end", request{command: cmdRead, offset: size, length: 512}, full, false, statusInvalid},
		{"read at 2^64", request{command: cmdRead, offset: 1<<64 - 512, length: 1024}, full, false, statusInvalid},
		{"read at odd offset", request{command: cmdRead, offset: 100, length: 512}, full, false, statusInvalid},
		{"read of odd length", request{command: cmdRead, length: 100}, full, false, statusInvalid},
		{"read with DF", request{command: cmdRead, flags: cmdFlagDF, length: 512}, full, false, statusOK},
		{"read with DF, not structured", request{command: cmdRead, flags: cmdFlagDF, length: 512}, negotiated{}, false, statusInvalid},
		{"read with FUA", request{command: cmdRead, flags: cmdFlagFUA, length: 512}, full, false, statusOK},
		{"write", request{command: cmdWrite, flags: cmdFlagFUA, length: 512}, full, false, statusOK},
		{"write read-only", request{command: cmdWrite, length: 512}, full, true, statusNotPermitted},
		{"write beyond the end", request{command: cmdWrite, offset: size, length: 512}, full, false, statusNoSpace},
		{"write with unknown flag", request{command: cmdWrite, flags: 1 << 5, length: 512}, full, false, statusInvalid},
		{"flush", request{command: cmdFlush}, full, true, statusOK},
		{"flush with length", request{command: cmdFlush, length: 512}, full, false, statusInvalid},
		{"trim of everything", request{command: cmdTrim, length: size}, full, false, statusOK},
		{"trim read-only", request{command: cmdTrim, length: 512}, full, true, statusNotPermitted},
		{"trim beyond the end", request{command: cmdTrim, offset: size, length: 512}, full, false, statusInvalid},
		{"cache", request{command: cmdCache, length: size}, full, true, statusOK},
		{"cache with DF", request{command: cmdCache, flags: cmdFlagDF, length: 512}, full, true, statusInvalid},
		{"zeroes", request{command: cmdWriteZeroes, flags: cmdFlagNoHole, length: size}, full, false, statusOK},
		{"fast zeroes", request{command: cmdWriteZeroes, flags: cmdFlagFastZero, length: size}, full, false, statusOK},
		{"fast zeroes, no hole", request{command: cmdWriteZeroes, flags: cmdFlagFastZero | cmdFlagNoHole, length: 512}, full, false, statusNotSupported},
		{"zeroes beyond the end", request{command: cmdWriteZeroes, offset: size, length: 512}, full, false, statusNoSpace},
		{"block status", request{command: cmdBlockStatus, flags: cmdFlagReqOne, length: size}, full, true, statusOK},
		{"block status of nothing", request{command: cmdBlockStatus}, full, false, statusInvalid},
		{"block status, no context", request{command: cmdBlockStatus, length: 512}, negotiated{structured: true}, false, statusInvalid},
		{"RESIZE", request{command: 8, length: 512}, full, false, statusInvalid},
	}
	for _, c := range cases {
		if got, message := refuse(c.request, c.n, size, c.readOnly); got != c.want {
			t.Errorf("%s: status %d (%s), want %d", c.name, got, message, c.want)
		}
	}
}

func TestStatusOf(t *testing.T) {
	cases := []struct {
		command command
		err     error
		want    status
	}{
		{cmdWrite, nil, statusOK},
		{cmdWrite, engine.ErrNoSpace, statusNoSpace},
		{cmdWrite, engine.ErrReadOnly, statusNotPermitted},
		{cmdWrite, engine.ErrOutOfRange, statusNoSpace},
		{cmdRead, engine.ErrOutOfRange, statusInvalid},
		{cmdRead, engine.ErrUnaligned, statusInvalid},
		{cmdFlush, engine.ErrPoisoned, statusIO},
		// Poisoned by a full disk is poisoned: the client must not retry.
		{cmdWrite, fmt.Errorf("%w: %w", engine.ErrPoisoned, engine.ErrNoSpace), statusIO},
		{cmdRead, engine.ErrClosed, statusShutdown},
		{cmdRead, context.Canceled, statusShutdown},
		{cmdRead, errors.New("some other failure"), statusIO},
	}
	for _, c := range cases {
		if c.err != nil {
			c.err = fmt.Errorf("device call: %w", c.err)
		}
		if got := statusOf(c.command, c.err); got != c.want {
			t.Errorf("command %d, %v: status %d, want %d", c.command, c.err, got, c.want)
		}
	}
}

// TestSplitZeroes: the runs cover the buffer in order, say the truth, and are
// few.
func TestSplitZeroes(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	for round := range 200 {
		p := make([]byte, 512*(1+random.IntN(2048)))
		for range random.IntN(40) {
			from := random.IntN(len(p))
			to := min(from+random.IntN(64<<10), len(p))
			for i := from; i < to; i++ {
				p[i] = 1
			}
		}
		at, holes, ended := 0, 0, false
		splitZeroes(p, func(from, to int, zero, last bool) {
			if from != at || to <= from || ended || last != (to == len(p)) {
				t.Fatalf("round %d: run [%d, %d) last %v after %d of %d bytes", round, from, to, last, at, len(p))
			}
			if zero {
				holes++
				if len(bytes.Trim(p[from:to], "\x00")) != 0 {
					t.Fatalf("round %d: data in hole [%d, %d)", round, from, to)
				}
			}
			at, ended = to, last
		})
		if !ended || holes > maxHoles+1 {
			t.Fatalf("round %d: ended %v with %d holes", round, ended, holes)
		}
	}
	count := 0
	splitZeroes(make([]byte, 1<<20), func(_, _ int, zero, last bool) {
		count++
		if !zero || !last {
			t.Error("a buffer of zeroes is not one hole")
		}
	})
	if count != 1 {
		t.Errorf("a buffer of zeroes became %d runs", count)
	}
}

func TestBufferSizes(t *testing.T) {
	for _, length := range []int{1, 512, 4096, 4097, 64 << 10, 1<<20 + 1, maxRequestBytes - 1, maxRequestBytes} {
		b := takeBuffer(length)
		if len(b.bytes) != length || len(b.full) != bufferBytes(length) || len(b.full) < length {
			t.Errorf("buffer of %d bytes: %d used of %d, bufferBytes says %d", length, len(b.bytes), len(b.full), bufferBytes(length))
		}
		b.release()
	}
}

func TestConfigValidate(t *testing.T) {
	for _, c := range []Config{{MaxConnections: -1}, {Workers: -1}, {HandshakeTimeout: -1}, {DrainTimeout: -1}} {
		if _, err := New(c); err == nil {
			t.Errorf("New accepted %+v", c)
		}
	}
	if _, err := New(Config{}); err != nil {
		t.Errorf("New refused the zero Config: %v", err)
	}
}
