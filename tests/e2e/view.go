package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// openView is a view of a group whose images are on ports of this machine.
type openView struct {
	ns      *Namespace
	id      string
	uris    map[string]string // by volume
	forward *exec.Cmd
}

// openView opens a point of a group with the plugin, which goes on to forward
// until close.
func (n *Namespace) openView(t testing.TB, group, at string) *openView {
	t.Helper()
	ctx, giveUp := context.WithCancel(context.WithoutCancel(t.Context()))
	defer time.AfterFunc(pluginTimeout, giveUp).Stop() // it is to print the view within that, and lives on
	cmd, err := n.pluginCommand(ctx, "--namespace", n.Namespace, "view", "open", group, "--at", at, "--forward", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	v := &openView{ns: n, uris: map[string]string{}, forward: cmd}
	var opened struct {
		View struct {
			ID      string
			Exports []struct{ VolumeID, NBDURI string }
		}
	}
	if err := json.NewDecoder(out).Decode(&opened); err != nil {
		t.Fatalf("view open printed no view: %v, %v", err, v.stop())
	}
	v.id = opened.View.ID
	for _, e := range opened.View.Exports {
		v.uris[e.VolumeID] = e.NBDURI
	}
	return v
}

// stop ends the forwarding.
func (v *openView) stop() error {
	if err := v.forward.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	_ = v.forward.Wait() // it was interrupted
	return nil
}

// close ends the forwarding and closes the view.
func (v *openView) close(t testing.TB) {
	t.Helper()
	if err := v.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := v.ns.Plugin(t.Context(), "view", "close", v.id); err != nil {
		t.Fatal(err)
	}
}

// number is the number in the first sector of a volume.
func (v *openView) number(t testing.TB, volume string) int {
	t.Helper()
	uri, err := url.Parse(v.uris[volume])
	if err != nil {
		t.Fatal(err)
	}
	sector, err := readSector(uri)
	if err != nil {
		t.Fatalf("read %s: %v", uri, err)
	}
	n, err := strconv.Atoi(strings.Trim(string(sector), " \x00"))
	if err != nil {
		t.Fatalf("the first sector of volume %s is no number: %v", volume, err)
	}
	return n
}

func readSector(uri *url.URL) ([]byte, error) {
	c, err := harness.DialNBD(uri.String())
	if err != nil {
		return nil, err
	}
	sector := make([]byte, 512)
	_, err = c.ReadAt(sector, 0)
	if end := c.Close(); err == nil && end != nil {
		err = fmt.Errorf("close: %w", end)
	}
	return sector, err
}
