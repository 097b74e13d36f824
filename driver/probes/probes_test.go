package probes_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lockstep-csi/lockstep/driver/probes"
	"github.com/lockstep-csi/lockstep/internal/loopback"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// free returns an address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	address, err := loopback.Free()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	for deadline := time.Now().Add(10 * time.Second); ; {
		resp, err := client.Get(url)
		if err == nil {
			raw, err := io.ReadAll(resp.Body)
			if err := errors.Join(err, resp.Body.Close()); err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode, string(raw)
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestProbesTellWhatTheRoleSays(t *testing.T) {
	metrics, health := free(t), free(t)
	var missing atomic.Bool
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		err := probes.Run(ctx, probes.Config{MetricsAddr: metrics, HealthAddr: health, Ready: func() error {
			if missing.Load() {
				return errors.New("no orders yet")
			}
			return nil
		}})
		if err != nil {
			t.Error(err)
		}
	})
	if code, body := get(t, "http://"+metrics+"/metrics"); code != 200 || !strings.Contains(body, "go_goroutines") {
		t.Errorf("metrics: %d %q", code, body)
	}
	if code, _ := get(t, "http://"+health+"/readyz"); code != 200 {
		t.Errorf("readyz: %d", code)
	}
	missing.Store(true)
	if code, body := get(t, "http://"+health+"/readyz"); code != 503 || !strings.Contains(body, "no orders yet") {
		t.Errorf("readyz while something is missing: %d %q", code, body)
	}
	if code, _ := get(t, "http://"+health+"/healthz"); code != 200 {
		t.Errorf("healthz: %d", code)
	}
	stop()
	wg.Wait()
}

func TestAnAddressInUseIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := probes.Run(context.Background(), probes.Config{HealthAddr: l.Addr().String()}); err == nil {
		t.Error("listening on an address in use succeeded")
	}
}
