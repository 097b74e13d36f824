package site_test

import (
	"encoding/json"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// holderStub is a holder that keeps the device of one volume and does not hand it out.
type holderStub struct {
	client *holder.Client
	asked  chan struct{} // receives for each attach

	mu      sync.Mutex
	kept    []holder.Volume
	refusal string // the code that an attach is answered with; empty: it is not answered
}

// stubHolder starts one, and connects to it. It ends with the test.
func stubHolder(t *testing.T, id journal.VolumeID) *holderStub {
	t.Helper()
	h := &holderStub{asked: make(chan struct{}, 1000), kept: []holder.Volume{{ID: id.String(), BlockBytes: 512, Device: "/dev/loop0"}}, refusal: "leased"}
	socket := filepath.Join(t.TempDir(), "holder.sock")
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := listener.AcceptUnix()
		if err == nil {
			h.serve(conn)
			_ = conn.Close() // the client has ended
		}
	}()
	if h.client, err = holder.Dial(t.Context(), socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.client.Close(); err != nil {
			t.Error(err)
		}
		_ = listener.Close() // it has served whom it was for
		<-served
	})
	return h
}

func (h *holderStub) serve(conn *net.UnixConn) {
	packet := make([]byte, 128<<10)
	for {
		n, err := conn.Read(packet)
		if err != nil || n == 0 {
			return
		}
		var req struct {
			Version int    `json:"v"`
			ID      uint64 `json:"id"`
			Op      string `json:"op"`
		}
		if err := json.Unmarshal(packet[:n], &req); err != nil {
			return
		}
		rep := map[string]any{"v": req.Version, "id": req.ID}
		if !h.answer(req.Op, rep) {
			continue
		}
		out, err := json.Marshal(rep)
		if err == nil {
			_, err = conn.Write(out)
		}
		if err != nil {
			return
		}
	}
}

// answer fills a reply in; false: there is none.
func (h *holderStub) answer(op string, rep map[string]any) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch op {
	case "list":
		rep["volumes"] = h.kept
	case "detach":
		h.kept = nil
	case "attach":
		h.asked <- struct{}{}
		if h.refusal == "" {
			return false
		}
		rep["error"] = map[string]string{"code": h.refusal, "text": "the holder says " + h.refusal}
	}
	return true
}

func (h *holderStub) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}
