package csikeys

import (
	"strings"
	"testing"
)

func TestCheckNodeID(t *testing.T) {
	for id, good := range map[string]bool{
		"n": true, "node-1": true, "a.b_c": true, "0": true, strings.Repeat("n", 63): true,
		"": false, "-n": false, "n-": false, "a b": false, "a/b": false, "knöten": false, "n\n": false, strings.Repeat("n", 64): false,
	} {
		if err := CheckNodeID(id); (err == nil) != good {
			t.Errorf("%q: %v", id, err)
		}
	}
}
