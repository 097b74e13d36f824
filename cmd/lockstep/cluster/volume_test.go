package cluster_test

import (
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
)

func TestResolveVolume(t *testing.T) {
	c := &cluster.Cluster{Namespace: "prod"}
	const id = "0123456789abcdef0123456789abcdef"
	for argument, want := range map[string]string{
		"data":              "prod/data",
		"shop/data":         "shop/data",
		"pvc:data":          "prod/data",
		"pvc:shop/data":     "shop/data",
		id:                  id,
		"pvc:" + id:         "prod/" + id, // a claim may have any name
		"pvc-0a1b":          "pvc-0a1b",
		"pvc:pvc-0a1b":      "prod/pvc-0a1b",
		"shop/pvc-0a1b":     "shop/pvc-0a1b",
		"pvc-shop/data":     "pvc-shop/data",
		id[:31] + "g":       "prod/" + id[:31] + "g",
		"shop/" + id:        "shop/" + id,
		"0123456789abcdef0": "prod/0123456789abcdef0",
	} {
		if got, err := c.ResolveVolume(argument); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", argument, got, err, want)
		}
	}
	for _, argument := range []string{"a/b/c", "/data", "shop/", "pvc:", "pvc:/"} {
		var bad *cluster.BadNameError
		if got, err := c.ResolveVolume(argument); !errors.As(err, &bad) {
			t.Errorf("%s: got %q, %v, want a misuse", argument, got, err)
		}
	}
}
