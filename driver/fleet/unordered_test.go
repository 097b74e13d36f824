package fleet_test

import "testing"

// A replica that has left its group before its engine had any orders is made by nobody: a store of
// zeroes would be taken for it, here or where it comes back.
func TestAReplicaThatHadNoOrdersIsNotMade(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	cut := severable(a)
	replicated(t, a, fa, fb, 1)
	cut.Store(true) // for engines that are not connected yet
	setDeaf := func(deaf bool) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.deaf = deaf // those that are connected stay so
	}
	setDeaf(true)
	v := newVolume(2, "shop")
	v.Settings.ReplicateTo = "b"
	mustCreate(t, fa, v)
	until(t, "the replica to know the new member", func() bool {
		st, err := fb.Groups().State("shop")
		return err == nil && len(st.Members) == 2
	})
	if err := deleteVolume(t, fa, 2); err != nil {
		t.Fatal(err)
	}
	until(t, "the replica to know that it is gone", func() bool {
		v, err := fb.Volume(id(2))
		return err == nil && v.Retired
	})
	setDeaf(false)
	release, err := fb.Wake(bounded(t), "shop", true)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if v, err := fb.Volume(id(2)); err != nil || !v.Connected || v.State.Store != nil {
		t.Errorf("connected %t, store %+v, %v: it was made", v.Connected, v.State.Store, err)
	}
}
