package fleet

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

const (
	// upgradeRest is how long no engine is upgraded after one could not be.
	upgradeRest = 5 * time.Minute
	// heldFor is how long an engine that is held back is not asked again.
	heldFor = 30 * time.Second
)

// upgrades is what is known of bringing engines that run to the template that
// new ones are made of. Guarded by Fleet.mu.
type upgrades struct {
	// under is the volume whose engine is being upgraded from a template; nil:
	// none.
	under *volume
	from  string
	// until then none is upgraded, because an upgrade failed.
	until time.Time
}

// keepUpgraded brings engines that run to the present template, one after the
// other: the next one when the one before serves again. It ends with the fleet.
func (f *Fleet) keepUpgraded() {
	timer := f.cfg.Clock.NewTimer(f.cfg.UpgradeEvery)
	for {
		select {
		case <-timer.C():
		case <-f.ctx.Done():
			timer.Stop()
			return
		}
		f.upgradeNext()
		timer = f.cfg.Clock.NewTimer(f.cfg.UpgradeEvery)
	}
}

// upgradeNext has one engine upgraded, if there is one to be, and no other one
// is on its way.
func (f *Fleet) upgradeNext() {
	template, manual, err := f.cfg.Engines.Template()
	if err != nil {
		f.cfg.Log.Warn("engines are not upgraded", "error", err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	u := &f.upgrades
	if v := u.under; v != nil {
		// Its successor has to answer first, unless the engine is not wanted any more.
		if f.volumes[v.record.ID] == v && v.running && !v.abandoned && (v.client == nil || v.template == u.from) {
			return
		}
		v.outdated, u.under = false, nil
	}
	now := f.cfg.Clock.Now()
	if manual || now.Before(u.until) {
		return
	}
	for _, id := range slices.SortedFunc(maps.Keys(f.volumes), compareIDs) {
		v := f.volumes[id]
		// What an operation or an open view is using is left to it.
		if v.holds > 0 || v.client == nil || v.template == "" || v.template == template || now.Before(v.held) {
			continue
		}
		u.under, u.from, v.outdated = v, v.template, true
		v.poke()
		return
	}
}

// outdatedLocked reports whether a volume's engine, which answers, is to be upgraded. That
// was decided for one that was outdated and that nobody used: its successor, which has
// come for another reason, is left alone, and so is what an operation has begun to use
// since. The latter is looked at again when the others have been. Fleet.mu is held.
func (f *Fleet) outdatedLocked(v *volume) bool {
	u := &f.upgrades
	if !v.outdated || v.client == nil {
		return false
	}
	if v.holds > 0 || v.template != u.from {
		v.outdated, u.under = false, nil
	}
	return v.outdated
}

// upgraded takes the outcome of the upgrade of a volume's engine.
func (f *Fleet) upgraded(v *volume, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v.outdated = false
	if err == nil {
		return
	}
	if f.upgrades.under == v {
		f.upgrades.under = nil
	}
	switch {
	case errors.Is(err, context.Canceled): // given up for something else
	case errors.Is(err, ErrHeld):
		v.held = f.cfg.Clock.Now().Add(heldFor)
	case f.ctx.Err() == nil:
		f.upgrades.until = f.cfg.Clock.Now().Add(upgradeRest)
	}
}
