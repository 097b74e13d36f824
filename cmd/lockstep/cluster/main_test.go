package cluster_test

import (
	"testing"

	"go.uber.org/goleak"
)

// A connection of a forwarded port that the other end has closed first waits a second for somebody who
// looks at the error of its own close, of whom there is none, and then ends by itself: longer than
// goleak waits.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/moby/spdystream.(*Connection).shutdown"))
}
