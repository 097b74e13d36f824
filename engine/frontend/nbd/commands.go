package nbd

import (
	"context"
	"fmt"

	"github.com/lockstep-csi/lockstep/engine"
)

// call asks the device for what the task wants and fills the answer. When it
// returns an error the answer is still empty.
func (t *transmission) call(ctx context.Context, next task, answer *reply) error {
	r, device := next.request, t.export.device
	off, length := int64(r.offset), int64(r.length)
	var err error
	switch {
	case r.command == cmdRead:
		return t.readCommand(ctx, next, answer)
	case r.command == cmdBlockStatus:
		return t.blockStatus(ctx, r, answer)
	case r.command == cmdFlush:
		err = device.Flush(ctx)
	case r.command == cmdCache, length == 0:
		// The device has no cache to warm; nothing to do for nothing.
	case r.command == cmdWrite:
		err = device.WriteAt(ctx, next.payload.bytes, off, r.fua())
	case r.command == cmdTrim:
		err = trim(ctx, device, off, length, r.fua())
	case r.flags&cmdFlagNoHole != 0:
		err = writeOutZeroes(ctx, device, off, length, r.fua())
	default:
		err = device.WriteZeroes(ctx, off, length, r.fua())
	}
	if err != nil {
		return err
	}
	answer.simple(r.cookie, statusOK, nil)
	return nil
}

// readCommand answers READ.
func (t *transmission) readCommand(ctx context.Context, next task, answer *reply) error {
	r := next.request
	if next.payload == nil {
		if t.negotiated.structured {
			answer.none(r.cookie)
		} else {
			answer.simple(r.cookie, statusOK, nil)
		}
		return nil
	}
	p := next.payload.bytes
	if err := t.export.device.ReadAt(ctx, p, int64(r.offset)); err != nil {
		return err
	}
	switch {
	case !t.negotiated.structured:
		answer.simple(r.cookie, statusOK, p)
	case r.flags&cmdFlagDF != 0:
		answer.data(r.cookie, replyFlagDone, r.offset, p)
	default:
		splitZeroes(p, func(from, to int, zero, last bool) {
			var flags uint16
			if last {
				flags = replyFlagDone
			}
			if zero {
				answer.hole(r.cookie, flags, r.offset+uint64(from), uint32(to-from))
			} else {
				answer.data(r.cookie, flags, r.offset+uint64(from), p[from:to])
			}
		})
	}
	return nil
}

// blockStatus answers BLOCK_STATUS. Lengths fit 32 bits because no range
// leaves the request.
func (t *transmission) blockStatus(ctx context.Context, r request, answer *reply) error {
	limit := maxExtents
	if r.flags&cmdFlagReqOne != 0 {
		limit = 1
	}
	ranges, err := t.export.device.BlockStatus(ctx, int64(r.offset), int64(r.length), limit)
	if err != nil {
		return err
	}
	if len(ranges) == 0 || len(ranges) > limit {
		return fmt.Errorf("device described [%d, +%d) in %d ranges, want 1 to %d", r.offset, r.length, len(ranges), limit)
	}
	answer.extents(r.cookie, ranges)
	return nil
}

// trim discards a range. Discard alone has no FUA, so that takes a flush.
func trim(ctx context.Context, device engine.Device, off, length int64, fua bool) error {
	if err := device.Discard(ctx, off, length); err != nil {
		return err
	}
	if fua {
		return device.Flush(ctx)
	}
	return nil
}

// writeOutZeroes stores zeroes as data, for clients that ask for no hole.
func writeOutZeroes(ctx context.Context, device engine.Device, off, length int64, fua bool) error {
	for length > 0 {
		n := min(length, int64(len(zeroBlock)))
		if err := device.WriteAt(ctx, zeroBlock[:n], off, fua); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}
