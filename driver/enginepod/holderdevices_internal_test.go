package enginepod

import (
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/node/holder"
)

// fakeHolder answers one engine: it has a device, takes it away when asked to, and does
// not take its descriptor back.
func fakeHolder(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "holder.sock")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		_, _ = l.Close(), null.Close()
		<-ended
	})
	go func() {
		defer close(ended)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close() //nolint:errcheck // the engine has ended it
		packet := make([]byte, 64<<10)
		for {
			n, err := conn.Read(packet)
			if err != nil || n == 0 {
				return
			}
			var asked struct {
				ID uint64 `json:"id"`
				Op string `json:"op"`
			}
			if err := json.Unmarshal(packet[:n], &asked); err != nil {
				return
			}
			answer, rights := map[string]any{"v": 2, "id": asked.ID}, []byte(nil)
			switch asked.Op {
			case "attach":
				answer["init"], answer["lease"], rights = map[string]any{}, 1, unix.UnixRights(int(null.Fd()))
			case "release":
				answer["error"] = map[string]any{"text": "it is about to end"}
			}
			raw, _ := json.Marshal(answer) // of a map of what it can encode
			if _, _, err := conn.WriteMsgUnix(raw, rights, nil); err != nil {
				return
			}
		}
	}()
	return socket
}

// A device that is gone is gone, whatever becomes of the lease of its descriptor, as where the
// holder ends in that moment and the next one does not come: who is told that it could not be
// detached tries again, with nobody left to do it.
func TestADetachIsDoneWhateverBecomesOfTheLease(t *testing.T) {
	for name, take := range map[string]func(a *attached) error{
		"detach":   func(a *attached) error { return a.Detach(t.Context()) },
		"withdraw": func(a *attached) error { return a.Withdraw(t.Context()) },
		"abandon":  func(a *attached) error { return a.Abandon(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			keeper, err := holder.Keep(brief(t), holder.KeeperConfig{Socket: fakeHolder(t), AttachConfig: holder.AttachConfig{Volume: "v", BlockBytes: 512}})
			if err != nil {
				t.Fatal(err)
			}
			a := &attached{keeper: keeper, log: slog.New(slog.DiscardHandler), stop: func() {}, lost: make(chan struct{})}
			if err := take(a); err != nil {
				t.Errorf("the device was taken away, and that is answered with %v", err)
			}
		})
	}
}
