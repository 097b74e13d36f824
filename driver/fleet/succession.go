package fleet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// bucketControllers has, under numberKey, the number of the last controller that began.
const (
	bucketControllers = "controllers"
	numberKey         = "number"
)

// ErrReplaced means that there is a newer controller of the site.
var ErrReplaced = errors.New("a newer controller has called an engine of this site")

// AwaitReplaced returns ErrReplaced once an engine tells that there is a newer controller, or
// ctx's error. The process is to end then: its successor knows what is so, and it does not. It
// would go on telling peers what the site's groups had been when it could still save that.
func (f *Fleet) AwaitReplaced(ctx context.Context) error {
	select {
	case <-f.succeeded:
		return ErrReplaced
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *Fleet) noteReplaced(newest uint64) {
	f.succeededOnce.Do(func() {
		f.successor = newest
		close(f.succeeded)
	})
}

// raiseNumber, as the last thing of a controller that was told that it was replaced, has the next one
// take a number above the one that it was told of, if it was the newest nevertheless, which it is if it can save
// that: the catalog was lost, or put back, and the one before had begun with a clock that was
// ahead. A controller that was replaced can save nothing.
func (f *Fleet) raiseNumber() {
	select {
	case <-f.succeeded:
	default:
		return
	}
	if f.successor == math.MaxUint64 {
		return // there is none above it
	}
	err := f.cfg.DB.Update(func(tx kv.Tx) error {
		if last := lastNumber(tx); last != f.number || f.successor <= last {
			return nil
		}
		return tx.Put(bucketControllers, []byte(numberKey), binary.BigEndian.AppendUint64(nil, f.successor))
	})
	if err != nil {
		f.cfg.Log.Info("this controller was replaced, and can save nothing any more", "error", err)
	}
}

func lastNumber(tx kv.Tx) (last uint64) {
	if b := tx.Get(bucketControllers, []byte(numberKey)); len(b) == 8 {
		last = binary.BigEndian.Uint64(b)
	}
	return last
}

// claimNumber returns this controller's number, which is above that of every one before it; durable
// on return. By it engines tell it from one that was replaced and does not know that yet. It
// is not below the time either, so that a catalog that was lost, or put back, does not make
// an old controller of the next one.
func (f *Fleet) claimNumber() (number uint64, err error) {
	err = f.cfg.DB.Update(func(tx kv.Tx) error {
		number = max(lastNumber(tx)+1, uint64(f.cfg.Clock.Now().UnixNano()))
		return tx.Put(bucketControllers, []byte(numberKey), binary.BigEndian.AppendUint64(nil, number))
	})
	if err != nil {
		return 0, fmt.Errorf("claim a controller's number: %w", err)
	}
	return number, nil
}
