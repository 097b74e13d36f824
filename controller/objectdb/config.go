package objectdb

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/lockstep-csi/lockstep/internal/clock"
)

const (
	// DefaultName is the name of the controller's one database.
	DefaultName = "lockstep-catalog"
	// DefaultPatience is Config.Patience.
	DefaultPatience = 2 * time.Minute

	// requestTimeout bounds one request. The API server gives up after a minute.
	requestTimeout = 15 * time.Second
	// firstDelay and longestDelay are the times between two tries.
	firstDelay   = 50 * time.Millisecond
	longestDelay = 5 * time.Second
	// maxCommitBytes is the most that the changes of a commit have, encoded. A
	// ConfigMap has at most 1 MiB.
	maxCommitBytes = 960 << 10
	// pageSize is the number of entries in one answer of the API server.
	pageSize = 500
	// entryWriters is how many entries are written at a time.
	entryWriters = 8
)

// Config says where a database is.
type Config struct {
	// Maps are the ConfigMaps of the namespace that the database is in. Needs
	// the rights get, list, watch, create and update, and not delete.
	Maps typedcorev1.ConfigMapInterface
	// Name begins the objects' names; DefaultName if empty. Databases of
	// different names share nothing.
	Name string
	// Patience is how long an Update whose outcome is unknown tries to find it
	// out, before the database is poisoned. 0: DefaultPatience.
	Patience time.Duration
	// Log is told of edits from outside, and of what is tried again. nil:
	// nothing is logged.
	Log *slog.Logger
	// Clock times the tries. nil: the machine's.
	Clock clock.Clock
	// OnEdit is called for each edit from outside that Run found, with the
	// object's name. May be nil. It must not call the database.
	OnEdit func(object string)
}

func (c *Config) complete() error {
	if c.Maps == nil {
		return errors.New("open database: no ConfigMaps client")
	}
	if c.Name == "" {
		c.Name = DefaultName
	}
	// The slot number comes behind it.
	if errs := validation.IsDNS1123Label(c.Name); len(errs) > 0 || len(c.Name) > 50 {
		return fmt.Errorf("open database: name %q is no DNS label of at most 50 characters", c.Name)
	}
	if c.Patience == 0 {
		c.Patience = DefaultPatience
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = clock.Wall{}
	}
	if c.OnEdit == nil {
		c.OnEdit = func(string) {}
	}
	return nil
}
