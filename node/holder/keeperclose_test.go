package holder

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
)

// endingHolder answers one connection after the other as holders do of which the first ends
// when it is to take a lease back. It tells what it was asked; with a descriptor when one came.
func endingHolder(listener *net.UnixListener, asked chan<- string) {
	defer close(asked)
	for ends := true; ; ends = false {
		socket, err := listener.AcceptUnix()
		if err != nil {
			return
		}
		answerUntilEnd(socket, ends, asked)
		_ = socket.Close()
	}
}

func answerUntilEnd(socket *net.UnixConn, ends bool, asked chan<- string) {
	packet, rights := make([]byte, maxPacketBytes), make([]byte, unix.CmsgSpace(4))
	for {
		n, rn, _, _, err := socket.ReadMsgUnix(packet, rights)
		if err != nil || n == 0 {
			return
		}
		given := descriptorIn(rights[:rn])
		req, err := decodeRequest(packet[:n])
		if err != nil {
			return
		}
		what := string(req.Op)
		if given != noDescriptor {
			what += " with a descriptor"
			given.close()
		}
		asked <- what
		if ends && req.Op == opRelease {
			return
		}
		rep := reply{Version: protocolVersion, ID: req.ID}
		var conn []byte
		if req.Op == opAttach {
			null, err := os.Open(os.DevNull)
			if err != nil {
				return
			}
			defer null.Close()
			rep.Init, rep.Lease, conn = &fuse.InitState{}, 1, unix.UnixRights(int(null.Fd()))
		}
		text, err := json.Marshal(rep)
		if err != nil {
			return
		}
		if _, _, err := socket.WriteMsgUnix(text, conn, nil); err != nil {
			return
		}
	}
}

// A holder that ends while an engine gives its lease back takes its copy of the descriptor along:
// that of the engine is the last one, and goes to the next holder first.
func TestCloseWhileTheHolderEnds(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "holder.sock")
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 16)
	go endingHolder(listener, asked)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	k, err := Keep(ctx, KeeperConfig{Socket: socket, AttachConfig: AttachConfig{Volume: "v", BlockBytes: 4096}})
	if err != nil {
		t.Fatal(errors.Join(err, listener.Close()))
	}
	if err := k.Close(ctx); err != nil {
		t.Error(err)
	}
	_ = listener.Close() // ends what answers
	var got []string
	for what := range asked {
		got = append(got, what)
	}
	if want := []string{"attach", "release", "restore with a descriptor", "release"}; !slices.Equal(got, want) {
		t.Errorf("holders were asked %q, want %q", got, want)
	}
}

// A lease that an engine gives back while the holder begins to end is seen by it, or is
// refused: with neither, both would close the descriptor, and the device fail.
func TestALeaseGivenBackAtTheEnd(t *testing.T) {
	h, err := New(Config{Socket: filepath.Join(t.TempDir(), "holder.sock"), Dir: t.TempDir(), Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	c := &connection{holder: h}
	release := request{Op: opRelease, Volume: "v"}
	v := h.newVolume("v", 4096, false)
	v.lessee, h.volumes["v"] = c, v
	news := h.news
	if _, _, err := h.call(t.Context(), c, release, noDescriptor); err != nil || v.lessee != nil {
		t.Fatalf("the lease is %v after it was given back: %v", v.lessee, err)
	}
	if h.beginEnd(news) {
		t.Error("the holder ends without a look at what was given back")
	}
	v.lessee = c
	if !h.beginEnd(h.news) {
		t.Fatal("the holder does not end")
	}
	if _, _, err := h.call(t.Context(), c, release, noDescriptor); !errors.Is(err, ErrClosed) || v.lessee != c {
		t.Errorf("a lease was taken back by a holder that ends: %v", err)
	}
}
