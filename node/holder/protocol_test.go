package holder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
)

func TestDecodeRequest(t *testing.T) {
	cases := map[string]struct {
		packet string
		want   error
	}{
		"attach":            {`{"v":2,"id":7,"op":"attach","volume":"v","blockBytes":512}`, nil},
		"detach":            {`{"v":2,"id":7,"op":"detach","volume":"v","force":true}`, nil},
		"list":              {`{"v":2,"id":7,"op":"list"}`, nil},
		"another version":   {`{"v":1,"id":7,"op":"list"}`, ErrVersion},
		"no version":        {`{"id":7,"op":"list"}`, ErrVersion},
		"unknown operation": {`{"v":2,"id":7,"op":"format","volume":"v"}`, ErrInvalid},
		"no volume":         {`{"v":2,"id":7,"op":"detach"}`, ErrInvalid},
		"path":              {`{"v":2,"id":7,"op":"detach","volume":"a/b"}`, ErrInvalid},
		"parent":            {`{"v":2,"id":7,"op":"detach","volume":".."}`, ErrInvalid},
		"option":            {`{"v":2,"id":7,"op":"detach","volume":"-f"}`, ErrInvalid},
		"long":              {`{"v":2,"id":7,"op":"detach","volume":"` + strings.Repeat("x", 129) + `"}`, ErrInvalid},
		"negative timeout":  {`{"v":2,"id":7,"op":"list","timeoutMillis":-1}`, ErrInvalid},
		"restore":           {`{"v":2,"id":7,"op":"restore","volume":"v","blockBytes":512,"init":{"major":7},"lease":1}`, nil},
		"restore, no lease": {`{"v":2,"id":7,"op":"restore","volume":"v","blockBytes":512,"init":{"major":7}}`, ErrInvalid},
		"restore, no init":  {`{"v":2,"id":7,"op":"restore","volume":"v","blockBytes":512,"lease":1}`, ErrInvalid},
		"block size":        {`{"v":2,"id":7,"op":"attach","volume":"v","blockBytes":513}`, ErrInvalid},
	}
	for name, c := range cases {
		r, err := decodeRequest([]byte(c.packet))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if r.ID != 7 {
			t.Errorf("%s: cannot be answered, its id came out as %d", name, r.ID)
		}
	}
	if _, err := decodeRequest([]byte("not JSON")); !errors.Is(err, ErrInvalid) {
		t.Errorf("no JSON: %v", err)
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(`{"v":2,"id":7,"op":"attach","volume":"v","blockBytes":512}`))
	f.Add([]byte(`{"v":2,"op":"list"}`))
	f.Add([]byte(`{"v":2,"op":"restore","volume":"v","blockBytes":512,"init":{"major":7},"lease":1}`))
	f.Fuzz(func(t *testing.T, packet []byte) {
		r, err := decodeRequest(packet)
		if err != nil {
			return
		}
		if strings.ContainsAny(r.Volume, "/\x00") || strings.HasPrefix(r.Volume, ".") {
			t.Fatalf("volume id %q accepted", r.Volume)
		}
		encoded, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := decodeRequest(encoded); err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%+v came back as %+v, %v", r, again, err)
		}
	})
}

// TestErrorsTravel: each sentinel is itself on the client's side, wrapped or
// not, and no other.
func TestErrorsTravel(t *testing.T) {
	all := []error{ErrLeased, ErrNotAttached, ErrNotServed, ErrBusy, ErrInvalid, ErrFull, ErrVersion, ErrSuperseded, ErrForeign, context.DeadlineExceeded}
	for _, sent := range all {
		got := encodeError(fmt.Errorf("do something: %w", sent)).decode()
		for _, other := range all {
			if errors.Is(got, other) != (other == sent) {
				t.Errorf("%q arrived as %q", sent, got)
			}
		}
	}
	if got := encodeError(errors.New("a disk fell over")).decode(); got == nil || !strings.Contains(got.Error(), "a disk fell over") {
		t.Errorf("an error without a code arrived as %v", got)
	}
	if got := encodeError(nil).decode(); got != nil {
		t.Errorf("success arrived as %v", got)
	}
}

// TestListFits: the longest possible answer fits into a packet.
func TestListFits(t *testing.T) {
	rep := reply{Version: protocolVersion, ID: 1 << 63}
	for i := range MaxVolumes {
		rep.Volumes = append(rep.Volumes, Volume{
			ID: strings.Repeat("x", 125) + fmt.Sprint(100+i), BlockBytes: 4096,
			ReadOnly: true, Leased: true, Away: true, Device: "/dev/loop1048575", Transport: fuse.TransportDevice, Identity: newIdentity(),
		})
	}
	packet, err := json.Marshal(rep)
	if err != nil || len(packet) > maxPacketBytes {
		t.Errorf("%d bytes, %v, want at most %d", len(packet), err, maxPacketBytes)
	}
}

// TestInitStateTravels: what one process negotiated is what another serves
// with, the flags above bit 31 included.
func TestInitStateTravels(t *testing.T) {
	sent := fuse.InitState{Major: 7, Minor: 40, Flags: 1<<39 | 1<<15 | 1, MaxWriteBytes: 1 << 20, MaxBackground: 512}
	packet, err := json.Marshal(reply{Init: &sent})
	if err != nil {
		t.Fatal(err)
	}
	var got reply
	if err := json.Unmarshal(packet, &got); err != nil {
		t.Fatal(err)
	}
	if got.Init == nil || *got.Init != sent || !got.Init.CanResend() {
		t.Errorf("arrived as %+v", got.Init)
	}
}

func TestConfigValidate(t *testing.T) {
	good := Config{Socket: "/run/lockstep/holder.sock", Dir: "/run/lockstep/devices"}
	if err := good.Validate(); err != nil {
		t.Errorf("good configuration: %v", err)
	}
	for name, change := range map[string]func(*Config){
		"relative socket":  func(c *Config) { c.Socket = "holder.sock" },
		"long socket":      func(c *Config) { c.Socket = "/" + strings.Repeat("x", 107) },
		"relative dir":     func(c *Config) { c.Dir = "devices" },
		"root":             func(c *Config) { c.Dir = "/" },
		"negative timeout": func(c *Config) { c.CallTimeout = -time.Second },
		"negative grace":   func(c *Config) { c.EndGrace = -time.Second },
		"negative group":   func(c *Config) { c.Group = -1 },
	} {
		c := good
		change(&c)
		if c.Validate() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// TestTooManyDescriptors: none of the descriptors of a packet that has more than one stays
// open, or a client could use up the holder's.
func TestTooManyDescriptors(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	err = unix.Sendmsg(pair[0], []byte("{}"), unix.UnixRights(pipe[1], pipe[1], pipe[1]), nil, 0)
	if err = errors.Join(err, unix.Close(pipe[1])); err != nil {
		t.Fatal(err)
	}
	rights := make([]byte, unix.CmsgSpace(4)) // as connection.run has it
	_, n, _, _, err := unix.Recvmsg(pair[1], make([]byte, 16), rights, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if found := descriptorIn(rights[:n]); found != noDescriptor {
		t.Errorf("descriptor %d of several was taken", found)
		found.close()
	}
	// The pipe ends when nobody can write into it any more.
	if _, err := unix.Read(pipe[0], make([]byte, 1)); err != nil {
		t.Errorf("descriptors are left open: read the pipe: %v", err)
	}
	for _, fd := range append(pair[:], pipe[0]) {
		_ = unix.Close(fd)
	}
}
