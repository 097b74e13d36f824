package fleet_test

import (
	"errors"
	"testing"
)

// A device that is not served as its node was asked to says so as long as it is
// there, and one that is says nothing.
func TestAFallbackFromIOUringIsKnown(t *testing.T) {
	c := newCluster(t)
	c.fallback = errors.New("the kernel does not offer it")
	f := c.open()
	defer func() { closeFleet(t, f) }()
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	if v, err := f.Volume(id(1)); err != nil || v.State.Transport != "dev-fuse" || v.State.TransportFallback != c.fallback.Error() {
		t.Errorf("the device is said to be over %q because of %q, %v", v.State.Transport, v.State.TransportFallback, err)
	}
	mustDetach(t, f, 1)
	until(t, "the engine to be gone", func() bool { return c.node(id(1)) == "" })
	c.fallback = nil
	mustAttach(t, f, 1, "node2")
	if v, err := f.Volume(id(1)); err != nil || v.State.Transport != "dev-fuse" || v.State.TransportFallback != "" {
		t.Errorf("the device is said to be over %q because of %q, %v", v.State.Transport, v.State.TransportFallback, err)
	}
}
