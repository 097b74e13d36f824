package fleet

import "time"

// expectAt says where a volume that is being made is going to be attached. An
// engine that is needed meanwhile, to fill it for example, runs there, and need not
// move.
func (f *Fleet) expectAt(v *volume, node string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v.expected = node
}

// expectSoon has the engine of a volume that was made run on the node where it is
// going to be attached. The start of its pod, which is most of what an attachment
// waits for, goes on while Kubernetes binds claim and pod. If nobody comes, it ends
// as any engine that is not wanted; what comes elsewhere has it moved. Nothing of it
// is durable: another controller attaches as if there had been no word of it.
func (f *Fleet) expectSoon(v *volume) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v.expected == "" {
		return
	}
	v.expectedUntil = f.cfg.Clock.Now().Add(f.cfg.Expect)
	v.poke()
}

// expectNothing is for a volume that has been attached: from now on an engine that
// may run anywhere may.
func (f *Fleet) expectNothing(v *volume) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v.expected, v.expectedUntil = "", time.Time{}
}
