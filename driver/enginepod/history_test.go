package enginepod_test

import (
	"context"
	"testing"
	"time"
)

func TestAnOrderedHistoryIsTheStores(t *testing.T) {
	r := newRig(t, newNetwork(), 1)
	o := r.primary(1, 1)
	o.History, o.Window = "1s:1h,1m:24h", 24*time.Hour
	r.order(o)
	if got := r.engine().Store().Retention(); got.History.String() != o.History || got.Window != o.Window {
		t.Errorf("the store keeps %+v, ordered was %q", got, o.History)
	}
	o.Revision, o.History = 2, ""
	r.order(o)
	if got := r.engine().Store().Retention(); got.History != nil {
		t.Errorf("the store keeps %+v, ordered was everything", got)
	}
	o.Revision, o.History = 3, "1m:1h,1s:24h"
	if _, err := r.client.Order(context.Background(), o); err == nil {
		t.Error("a history that falls is taken")
	}
}
