package noderole

import (
	"context"
	"log/slog"
	"time"

	"github.com/lockstep-csi/lockstep/node/holder"
)

// Defaults of Config.
const (
	// DefaultStaleAfter is far more than an engine needs that is replaced, and than
	// Kubernetes needs from an attachment to the engine's start.
	DefaultStaleAfter = time.Minute
	// DefaultStaleAgain is the time between the two answers that it takes.
	DefaultStaleAgain = 30 * time.Second
)

const (
	// looksPerWait is how often a revoker looks in the shorter of its two times.
	looksPerWait = 2
	// attestEvery is how soon a new device's attachment is asked for: a node that is cut
	// off before that keeps it.
	attestEvery = time.Second
	// revokeTimeout is longer than the node service keeps a volume's turn
	// (node.Config.UnmountWait).
	revokeTimeout = 40 * time.Second
)

// revocable is the part of a Holder that a revoker needs.
type revocable interface {
	Volumes() []holder.Volume
	Attest(id, attachment string) error
	Unserved() []holder.Unserved
	Revoke(ctx context.Context, u holder.Unserved) error
}

// revoker takes the devices of volumes away that are this node's no more, which a
// node that was cut off still has when it comes back. It is used by one goroutine.
//
// A device is taken away only if all of these hold: the API server has named the
// attachment that the device was made for; no engine has leased it for the time
// after; the API server has then said twice, again apart, that there is no such
// attachment; and no engine has leased it since. An error is no answer, and what was
// said before it is forgotten.
type revoker struct {
	kept       revocable
	attachment func(ctx context.Context, volume string) (string, error)
	after      time.Duration
	again      time.Duration
	now        func() time.Time // monotonic
	log        *slog.Logger

	// gone has the first answers that a volume is not attached, by volume.
	gone map[string]absence
	// mute is set after an error, until there is an answer.
	mute bool
}

// absence is the first answer, of one time without an engine, that the volume is not
// attached to this node.
type absence struct {
	spell uint64
	at    time.Time
}

// run looks again and again until ctx ends.
func (r *revoker) run(ctx context.Context) error {
	every := min(r.after, r.again) / looksPerWait
	ticker := time.NewTicker(min(every, attestEvery))
	defer ticker.Stop()
	judged := r.now()
	for {
		select {
		case <-ticker.C:
			r.attestServed(ctx)
			if now := r.now(); now.Sub(judged) >= every {
				judged = now
				r.judge(ctx)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// attestServed asks for the attachments of devices that are served and of which none is
// known yet.
func (r *revoker) attestServed(ctx context.Context) {
	for _, v := range r.kept.Volumes() {
		if v.Leased && v.Attachment == "" {
			r.attest(ctx, v.ID)
		}
	}
}

// judge asks once for every device that has been without an engine for long, and takes
// away what is to be.
func (r *revoker) judge(ctx context.Context) {
	devices := make(map[string]string)
	for _, v := range r.kept.Volumes() {
		devices[v.ID] = v.Device
	}
	gone := make(map[string]absence)
	for _, u := range r.kept.Unserved() {
		if u.For < r.after || u.Attachment == "" {
			continue
		}
		first, known := r.gone[u.ID]
		if attachment, err := r.ask(ctx, u.ID); err != nil || attachment != "" {
			continue
		}
		now := r.now()
		switch {
		case !known || first.spell != u.Spell:
			gone[u.ID] = absence{u.Spell, now}
		case now.Sub(first.at) < r.again || !r.revoke(ctx, u, devices[u.ID]):
			gone[u.ID] = first
		}
	}
	r.gone = gone
}

// attest notes the attachment that a device was made for. Without it the API server's
// word that there is none means nothing: it may have another name.
func (r *revoker) attest(ctx context.Context, volume string) {
	attachment, err := r.ask(ctx, volume)
	if err != nil || attachment == "" {
		return
	}
	if err := r.kept.Attest(volume, attachment); err != nil {
		r.log.Warn("cannot note what attaches a volume to this node: its device is not taken away when that is gone", "volume", volume, "error", err)
	}
}

// ask logs the first of several errors.
func (r *revoker) ask(ctx context.Context, volume string) (string, error) {
	attachment, err := r.attachment(ctx, volume)
	if err != nil && !r.mute && ctx.Err() == nil {
		r.log.Warn("cannot find out which volumes are attached to this node: devices of others are not taken away", "volume", volume, "error", err)
	}
	r.mute = err != nil
	return attachment, err
}

// revoke reports whether the device is gone.
func (r *revoker) revoke(ctx context.Context, u holder.Unserved, device string) bool {
	ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	if err := r.kept.Revoke(ctx, u); err != nil {
		r.log.Error("cannot take the device of a volume away that is not attached to this node any more", "volume", u.ID, "device", device, "error", err)
		return false
	}
	r.log.Warn("the device of a volume that is not attached to this node any more is taken away: who uses it gets an I/O error",
		"volume", u.ID, "device", device, "attachment", u.Attachment, "without-engine", u.For.Round(time.Second))
	return true
}
