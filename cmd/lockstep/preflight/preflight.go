package preflight

import (
	"context"
	"fmt"
	"time"

	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
)

// Level is the outcome of one look.
type Level string

// Levels. A Fail means that volumes, or some of them, do not work.
const (
	OK   Level = "ok"
	Warn Level = "warn"
	Fail Level = "fail"
)

// Finding is what one look found.
type Finding struct {
	Check  string // what was looked for
	Object string // where; empty: in the cluster
	Level  Level
	Found  string
	Remedy string // what to do; empty when OK
}

// DefaultDriverName is the driver's when no controller says another.
const DefaultDriverName = "csi.lockstep.dev"

// inspection is one run.
type inspection struct {
	*cluster.Cluster
	now      time.Time
	driver   string
	findings []Finding
}

// Run looks at everything, in the order in which an installation is made. Now
// is what certificates are compared with.
func Run(ctx context.Context, c *cluster.Cluster, now time.Time) []Finding {
	i := &inspection{Cluster: c, now: now, driver: DefaultDriverName}
	for _, check := range []func(context.Context){
		i.checkVersion, i.checkResources, i.checkController, i.checkDriver, i.checkNodes, i.checkClasses, i.checkSnapshotClasses, i.checkPeers,
	} {
		check(ctx)
	}
	return i.findings
}

func (i *inspection) ok(check, object, found string) {
	i.findings = append(i.findings, Finding{Check: check, Object: object, Level: OK, Found: found})
}

func (i *inspection) warn(check, object, found, remedy string) {
	i.findings = append(i.findings, Finding{check, object, Warn, found, remedy})
}

func (i *inspection) fail(check, object, found, remedy string) {
	i.findings = append(i.findings, Finding{check, object, Fail, found, remedy})
}

// unseen records that something could not be looked at.
func (i *inspection) unseen(check, object string, err error) {
	if cluster.Denied(err) {
		i.warn(check, object, "may not be looked at", "let somebody with the right to read it run this: "+err.Error())
		return
	}
	i.fail(check, object, fmt.Sprintf("cannot be looked at: %v", err), "see whether the API server is well")
}
