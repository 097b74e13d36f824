package enginepod

import (
	"context"
	"errors"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// whyNoDevice is why there is no device although one is ordered, and what tells when
// that has changed. Empty: there is one, none is wanted, or nothing is the matter so
// far.
func (p *Pod) whyNoDevice() (text string, changed <-chan struct{}) {
	s, changed := p.State()
	if s.Device != "" || s.Reason == control.ReasonFilling || !p.wantsDevice() {
		return "", changed
	}
	return s.Error, changed
}

// Report tells the holder, until ctx ends, why pod has no device that it was ordered to
// have: whoever stages the volume waits there, and hears of it. A holder that is away,
// or does not know how to be told, is no trouble of the engine's.
func (d HolderDevices) Report(ctx context.Context, pod *Pod) {
	var client *holder.Client // nil until there is something to say
	defer func() { hangUp(client) }()
	for {
		text, changed := pod.whyNoDevice()
		if text == "" {
			hangUp(client) // the holder forgets
			client = nil
		} else if err := d.report(ctx, &client, text); err != nil && !errors.Is(err, holder.ErrInvalid) {
			d.Log.Debug("the holder is not told why there is no device", "volume", d.Volume, "error", err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// report says it by client, which it dials if there is none or it has ended.
func (d HolderDevices) report(ctx context.Context, client **holder.Client, text string) error {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	if *client != nil {
		err := (*client).Trouble(ctx, d.Volume.String(), text)
		if !errors.Is(err, holder.ErrClosed) {
			return err
		}
		hangUp(*client)
		*client = nil
	}
	dialled, err := holder.Dial(ctx, d.Socket)
	if err != nil {
		return err
	}
	*client = dialled
	return dialled.Trouble(ctx, d.Volume.String(), text)
}

func hangUp(c *holder.Client) {
	if c != nil {
		_ = c.Close() // nothing depends on how it ends
	}
}
