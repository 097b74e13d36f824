package main

import (
	"strconv"

	"github.com/spf13/cobra"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

func (a *app) newForkCommand() *cobra.Command {
	return a.parent("fork", "Writable forks of a group at a moment, to test on, throw away or keep",
		a.newForkCreateCommand(),
		a.newForkListCommand(),
		a.newForkCommitCommand(),
		a.newForkDiscardCommand(),
	)
}

type forkDocument struct {
	Name       string           `json:"name"`
	Group      string           `json:"group"`
	State      string           `json:"state"`
	Reason     string           `json:"reason"`
	Ended      *string          `json:"ended"`
	Point      *pointDocument   `json:"point"`
	Created    *string          `json:"created"`
	Expires    *string          `json:"expires"`
	QuotaBytes int64            `json:"quotaBytes"`
	UsedBytes  int64            `json:"usedBytes"`
	HeldBytes  int64            `json:"heldBytes"`
	Full       bool             `json:"full"`
	Error      string           `json:"error"`
	Exports    []exportDocument `json:"exports"`
	Took       *string          `json:"took"`
	// How far a commit has come.
	CommittedBytes int64 `json:"committedBytes"`
	CommitBytes    int64 `json:"commitBytes"`
}

func forkOf(m *adminv1.Fork) forkDocument {
	return forkDocument{
		Name: m.GetName(), Group: m.GetGroup(), State: m.GetState(), Reason: m.GetReason(), Ended: timeText(m.GetEnded()),
		Point: pointOf(m.GetPoint()), Created: timeText(m.GetCreated()), Expires: timeText(m.GetExpires()),
		QuotaBytes: m.GetQuotaBytes(), UsedBytes: m.GetUsedBytes(), HeldBytes: m.GetHeldBytes(), Full: m.GetFull(), Error: m.GetError(),
		Exports: each(m.GetExports(), exportOf), Took: durationText(m.GetTook()),
		CommittedBytes: m.GetCommittedBytes(), CommitBytes: m.GetCommitBytes(),
	}
}

// forkState is how a fork is, with why where it is not well.
func forkState(f *adminv1.Fork) cell {
	switch {
	case f.GetError() != "":
		return cell{text: f.GetState() + ": " + f.GetError(), tone: toneBad}
	case f.GetReason() != "":
		return cell{text: f.GetState() + ": " + f.GetReason(), tone: toneNote}
	case f.GetCommitBytes() > 0:
		return cell{text: "committing, " + percent(f.GetCommittedBytes(), f.GetCommitBytes()), tone: toneNote}
	case f.GetFull():
		return cell{text: f.GetState() + ", full", tone: toneNote}
	}
	return text(f.GetState())
}

// percent is how much of a quota is used.
func percent(used, of int64) string {
	if of <= 0 {
		return unknown
	}
	return strconv.FormatInt(used*100/of, 10) + "%"
}
