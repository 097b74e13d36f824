package nbd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/lockstep-csi/lockstep/engine"
)

// export is one device under a name.
type export struct {
	name        string
	description string
	device      engine.Device

	conns   map[*connection]struct{} // guarded by exports.mu
	removed bool                     // guarded by exports.mu: no new connection
}

// flags are the transmission flags of the export at this moment.
func (e *export) flags(n negotiated) uint16 {
	flags := uint16(flagHasFlags | flagSendFlush | flagSendFUA | flagCanMultiConn | flagSendCache)
	if e.device.ReadOnly() {
		flags |= flagReadOnly
	} else {
		flags |= flagSendTrim | flagSendWriteZeroes | flagSendFastZero
	}
	if n.structured {
		flags |= flagSendDF
	}
	return flags
}

// exports is the table of what a server serves, and to whom.
type exports struct {
	mu     sync.Mutex
	byName map[string]*export
}

// Add serves dev under name, beginning at once. The description, which may be
// empty, is shown by clients that list exports. The device stays the caller's:
// it must outlive the export and is not closed. Errors: ErrExportExists,
// ErrBadName.
func (s *Server) Add(name string, dev engine.Device, description string) error {
	for _, text := range []string{name, description} {
		if len(text) > maxNameBytes || !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return fmt.Errorf("add export %q: %w", name, ErrBadName)
		}
	}
	s.exports.mu.Lock()
	defer s.exports.mu.Unlock()
	if s.exports.byName[name] != nil {
		return fmt.Errorf("add export %q: %w", name, ErrExportExists)
	}
	s.exports.byName[name] = &export{
		name: name, description: description, device: dev,
		conns: make(map[*connection]struct{}),
	}
	return nil
}

// Remove ends an export: no client gets it any more, requests in flight are
// answered, for Config.DrainTimeout at most, then its connections are closed. When
// Remove returns nil nobody uses the device through this server. When that time is
// over, or ctx ends first, requests in flight are cancelled and the connections closed
// at once; Remove still waits for the device to return from them. Errors: ErrNoExport.
func (s *Server) Remove(ctx context.Context, name string) error {
	s.exports.mu.Lock()
	e := s.exports.byName[name]
	if e == nil {
		s.exports.mu.Unlock()
		return fmt.Errorf("remove export %q: %w", name, ErrNoExport)
	}
	delete(s.exports.byName, name)
	e.removed = true
	conns := slices.Collect(maps.Keys(e.conns))
	s.exports.mu.Unlock()

	// A client that takes no answers would keep whoever is closing the device waiting.
	ctx, cancel := context.WithTimeout(ctx, s.config.DrainTimeout)
	defer cancel()
	for _, c := range conns {
		c.drain()
	}
	for _, c := range conns {
		c.waitClosed(ctx)
	}
	return nil
}

// Clients returns how many connections use an export now; 0 for one that is not
// there.
func (s *Server) Clients(name string) int {
	s.exports.mu.Lock()
	defer s.exports.mu.Unlock()
	if e := s.exports.byName[name]; e != nil {
		return len(e.conns)
	}
	return 0
}

// find returns the export that a client means. The empty name, which stands
// for a default export, means the only one when there is just one.
func (x *exports) find(name string) *export {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.byName[name]; e != nil || name != "" || len(x.byName) != 1 {
		return e
	}
	for _, e := range x.byName {
		return e
	}
	return nil
}

// list returns all exports in the order of their names.
func (x *exports) list() []*export {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.SortedFunc(maps.Values(x.byName), func(a, b *export) int {
		return strings.Compare(a.name, b.name)
	})
}

// attach records that c uses e; false when e is no longer served.
func (x *exports) attach(e *export, c *connection) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e.removed {
		return false
	}
	e.conns[c] = struct{}{}
	return true
}

func (x *exports) detach(e *export, c *connection) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(e.conns, c)
}
