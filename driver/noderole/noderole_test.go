package noderole

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/node"
	"github.com/lockstep-csi/lockstep/node/holder"
)

func TestConfigValidate(t *testing.T) {
	good := Config{CSIEndpoint: "unix:///x", NodeID: "n", HolderSocket: "/h", DevicesDir: "/d", StateDir: "/s"}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no endpoint":       func(c *Config) { c.CSIEndpoint = "" },
		"no node":           func(c *Config) { c.NodeID = "" },
		"relative socket":   func(c *Config) { c.HolderSocket = "h" },
		"no devices":        func(c *Config) { c.DevicesDir = "" },
		"no state":          func(c *Config) { c.StateDir = "" },
		"too many volumes":  func(c *Config) { c.MaxVolumes = holder.MaxVolumes + 1 },
		"negative volumes":  func(c *Config) { c.MaxVolumes = -1 },
		"negative group":    func(c *Config) { c.HolderGroup = -1 },
		"negative patience": func(c *Config) { c.StageWait = -1 },
	} {
		bad := good
		spoil(&bad)
		if bad.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// heldVolume is a holder that has one volume for ever, or none.
type heldVolume struct {
	volume  holder.Volume
	found   bool
	trouble error // what its engine says; nil: nothing
}

func (h heldVolume) Volume(string) (holder.Volume, error) {
	if !h.found {
		return holder.Volume{}, holder.ErrNotAttached
	}
	return h.volume, nil
}

func (h heldVolume) Await(ctx context.Context, _ string) (holder.Volume, error) {
	switch {
	case h.volume.Leased && h.volume.Device != "":
		return h.volume, nil
	case h.trouble != nil:
		return h.volume, h.trouble
	}
	<-ctx.Done()
	return h.volume, ctx.Err()
}

func (h heldVolume) Ready() error { return errors.New("not yet") }

// TestDevices: what the node service is told of a volume in each state that the
// holder may have it in.
func TestDevices(t *testing.T) {
	id, err := journal.ParseVolumeID(strings.Repeat("0b", 16))
	if err != nil {
		t.Fatal(err)
	}
	of := func(leased, away bool, device string) heldVolume {
		return heldVolume{holder.Volume{ID: id.String(), Leased: leased, Away: away, Device: device}, true, nil}
	}
	for name, c := range map[string]struct {
		holder heldVolume
		device string // that there is now
		awaits string // what is said of the engine in vain; empty: it is there
	}{
		"none":        {heldVolume{}, "", "has not attached on this node"},
		"trouble":     {heldVolume{trouble: fmt.Errorf("%w: segment 7 is damaged", holder.ErrTrouble)}, "", "segment 7 is damaged"},
		"no loop yet": {of(true, false, ""), "", "does not serve its device"},
		"served":      {of(true, false, "/dev/loop7"), "/dev/loop7", ""},
		"waiting":     {of(false, false, "/dev/loop7"), "/dev/loop7", "is gone"},
		"away":        {of(false, true, "/dev/loop7"), "/dev/loop7", "has not come back"},
	} {
		d := devices{c.holder, time.Millisecond}
		got, err := d.Device(t.Context(), id)
		if got != c.device || (c.device == "") != errors.Is(err, node.ErrNotFound) {
			t.Errorf("%s: device %q, %v, want %q", name, got, err, c.device)
		}
		got, err = d.Await(t.Context(), id)
		switch {
		case c.awaits == "":
			if got != c.device || err != nil {
				t.Errorf("%s: await: %q, %v", name, got, err)
			}
		case !errors.Is(err, node.ErrUnavailable) || !strings.Contains(err.Error(), "the engine of volume "+id.String()) || !strings.Contains(err.Error(), c.awaits):
			t.Errorf("%s: await: %v, want %q in it", name, err, c.awaits)
		}
		if d.Ready(t.Context()) == nil {
			t.Errorf("%s: ready although the holder is not", name)
		}
	}
}

// TestNodeTopology asks an API server for the labels of one node.
func TestNodeTopology(t *testing.T) {
	nodes := map[string]map[string]string{
		"/api/v1/nodes/zoned": {corev1.LabelTopologyZone: "z1", corev1.LabelTopologyRegion: "r1", corev1.LabelHostname: "h"},
		"/api/v1/nodes/plain": {corev1.LabelHostname: "h"},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		labels, found := nodes[r.URL.Path]
		if !found {
			http.Error(w, "no such node", http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		err := json.NewEncoder(w).Encode(corev1.Node{
			TypeMeta: metav1.TypeMeta{Kind: "Node", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Labels: labels},
		})
		if err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	ask := func(name string) (map[string]string, error) {
		topology, err := NodeTopology(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}, name)
		if err != nil {
			t.Fatal(err)
		}
		return topology(t.Context())
	}
	got, err := ask("zoned")
	if err != nil || len(got) != 2 || got[corev1.LabelTopologyZone] != "z1" || got[corev1.LabelTopologyRegion] != "r1" {
		t.Errorf("zoned: %v, %v", got, err)
	}
	if got, err := ask("plain"); err != nil || len(got) != 0 {
		t.Errorf("plain: %v, %v", got, err)
	}
	if got, err := ask("none"); err == nil {
		t.Errorf("none: %v", got)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if topology, err := InCluster("n"); topology != nil || err != nil {
		t.Errorf("outside of a cluster: %v", err)
	}
}
