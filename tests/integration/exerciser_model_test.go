package integration

import (
	"context"
	"os"
	"strings"
	"testing"
)

// TestExerciserFindsFaults shows that the exerciser can fail: behind its back a
// byte changes, a file gets longer, what was durable is changed, or is gone.
func TestExerciserFindsFaults(t *testing.T) {
	overwrite := func(name string, at int64) func(*testing.T, *exerciser) {
		return func(t *testing.T, e *exerciser) {
			f := must(os.OpenFile(e.path(name), os.O_RDWR, 0))(t)
			b := make([]byte, 1)
			_ = must(f.ReadAt(b, at))(t)
			b[0] ^= 1
			_ = must(f.WriteAt(b, at))(t)
			check(t, f.Close())
		}
	}
	for name, c := range map[string]struct {
		spoil func(*testing.T, *exerciser)
		want  string
	}{
		"nothing":               {func(*testing.T, *exerciser) {}, ""},
		"a byte":                {overwrite("current", 7), "byte 7"},
		"the length":            {func(t *testing.T, e *exerciser) { check(t, os.Truncate(e.path("current"), exercisedBytes+1)) }, "bytes, want"},
		"a byte that was kept":  {overwrite(sealName(0), 3), "does not hold"},
		"a file that was kept":  {func(t *testing.T, e *exerciser) { check(t, os.Remove(e.path(sealName(0)))) }, "a file that was durable"},
		"a byte that was moved": {func(t *testing.T, e *exerciser) { e.want[0], e.want[1] = 1, 2 }, "byte 0"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			e := must(newExerciser(dir, newMarker(t, dir), 1, exercises))(t)
			defer func() { check(t, e.pause()) }()
			check(t, e.write())
			check(t, e.seal())
			check(t, e.run(context.Background(), 20))
			check(t, e.file.Truncate(16))
			e.sized(16)
			e.want[0], e.want[1] = 3, 4
			_ = must(e.file.WriteAt([]byte{3, 4}, 0))(t)
			c.spoil(t, e)
			err := e.reopen()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("%v, want %q", err, c.want)
			}
		})
	}
}
