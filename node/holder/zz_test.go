package holder_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/node/holder"
)

func envInt(k string, d int) int {
	if v, err := strconv.Atoi(os.Getenv(k)); err == nil {
		return v
	}
	return d
}

// ZZ: serve a memory device until file /tmp/zz.stop exists
func TestZZ(t *testing.T) {
	if os.Getenv("ZZ") == "" {
		t.Skip()
	}
	if p := envInt("ZZPROCS", 0); p > 0 {
		runtime.GOMAXPROCS(p)
	}
	n := startNode(t)
	ctx := context.Background()
	s, err := n.client.Attach(ctx, holder.AttachConfig{Volume: "zz", BlockBytes: 512})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- fuse.Serve(ctx, s, &memoryDevice{data: touched(512 << 20)}, fuse.Options{Readers: envInt("ZZR", 0)})
	}()
	dev, err := n.client.AttachLoop(ctx, "zz")
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile("/tmp/zz.dev", []byte(dev), 0o600)
	for {
		if _, err := os.Stat("/tmp/zz.stop"); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Println(strings.TrimSpace(dev), n.client.Detach(ctx, "zz", false), <-done)
}
func touched(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = 1
	}
	return p
}
