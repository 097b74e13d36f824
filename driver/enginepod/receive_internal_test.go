package enginepod

import (
	"context"
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/engine/control"
)

// A replica takes nothing before it is durable that no device of before is taken over.
func TestAReplicaWhoseDeviceMayComeBackTakesNothing(t *testing.T) {
	none, old := "", "0123456789abcdef"
	for name, tt := range map[string]struct {
		device *string
		want   error
	}{
		"it has a device":                {&old, control.ErrDeviceInUse},
		"of an earlier version's record": {nil, control.ErrDeviceInUse},
		"it has none":                    {&none, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := &Pod{record: record{Orders: control.Orders{Term: 1, Group: "shop", Role: control.Replica}, Device: tt.device}}
			if _, _, err := (standing{p}).Standing(context.Background(), "shop"); !errors.Is(err, tt.want) {
				t.Errorf("standing: %v, want %v", err, tt.want)
			}
		})
	}
}
