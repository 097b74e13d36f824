package main

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

// tierDocument is one tier of a group's history, or what segments take that are of
// none of them.
type tierDocument struct {
	Interval     *string `json:"interval"`
	Age          *string `json:"age"`
	PinsOnly     bool    `json:"pinsOnly"`
	Points       uint64  `json:"points"`
	Oldest       *string `json:"oldest"`
	JournalBytes int64   `json:"journalBytes"`
}

type tierBytesDocument struct {
	Interval *string `json:"interval"`
	PinsOnly bool    `json:"pinsOnly"`
	Bytes    int64   `json:"bytes"`
}

func tierBytesOf(m *adminv1.TierBytes) tierBytesDocument {
	return tierBytesDocument{Interval: durationText(m.GetInterval()), PinsOnly: m.GetPinsOnly(), Bytes: m.GetBytes()}
}

// historyTier is a tier with what its segments take in all members' journals.
type historyTier struct {
	*adminv1.Tier
	pinsOnly     bool
	journalBytes int64
}

// historyTiers are the tiers of a group, the youngest first, and behind them what was
// thinned to an interval that was one's once, and what is kept for pins alone.
// What is not thinned is the first one's.
func historyTiers(m *adminv1.DescribeGroupResponse) []historyTier {
	var tiers []historyTier
	for _, tier := range m.GetHistory() {
		tiers = append(tiers, historyTier{Tier: tier})
	}
	if len(tiers) == 0 {
		return nil // of a site of a version before
	}
	known := len(tiers)
	for _, v := range m.GetMembers() {
		for _, part := range v.GetTiers() {
			i := slices.IndexFunc(tiers, func(t historyTier) bool {
				return t.pinsOnly == part.GetPinsOnly() && t.GetInterval().AsDuration() == part.GetInterval().AsDuration()
			})
			switch {
			case !part.GetPinsOnly() && part.GetInterval() == nil:
				i = 0
			case i < 0:
				i = len(tiers)
				tiers = append(tiers, historyTier{Tier: &adminv1.Tier{Interval: part.GetInterval()}, pinsOnly: part.GetPinsOnly()})
			}
			tiers[i].journalBytes += part.GetBytes()
		}
	}
	slices.SortFunc(tiers[known:], func(a, b historyTier) int { return cmp.Compare(a.rank(), b.rank()) })
	return tiers
}

// rank orders what is not of a tier: by rising interval, pins last.
func (t *historyTier) rank() time.Duration {
	if t.pinsOnly {
		return math.MaxInt64
	}
	return t.GetInterval().AsDuration()
}

// name is how `history` has it.
func (t *historyTier) name() string {
	tier := journal.Tier{Interval: t.GetInterval().AsDuration(), Age: t.GetAge().AsDuration()}
	switch text := (journal.History{tier}).String(); {
	case t.pinsOnly:
		return "pins"
	case t.GetAge() == nil: // once a tier's
		return strings.TrimSuffix(text, ":0s")
	case t.GetInterval() == nil:
		return "all" + strings.TrimPrefix(text, "0s")
	default:
		return text
	}
}

func historyOf(m *adminv1.DescribeGroupResponse) []tierDocument {
	return each(historyTiers(m), func(t historyTier) tierDocument {
		return tierDocument{Interval: durationText(t.GetInterval()), Age: durationText(t.GetAge()), PinsOnly: t.pinsOnly,
			Points: t.GetPoints(), Oldest: timeText(t.GetOldest()), JournalBytes: t.journalBytes}
	})
}

func (p *page) showHistory(m *adminv1.DescribeGroupResponse) {
	columns := []column{left("TIER"), right("POINTS"), left("OLDEST"), right("AGE"), right("JOURNAL")}
	var rows [][]cell
	for _, t := range historyTiers(m) {
		points := number(t.GetPoints())
		if t.GetAge() == nil {
			points = text(unknown)
		}
		rows = append(rows, []cell{text(t.name()), points, text(moment(t.GetOldest())), text(age(p.now, t.GetOldest())), text(iecSigned(t.journalBytes))})
	}
	p.table("  ", columns, rows)
	var thinned int64
	for _, v := range m.GetMembers() {
		thinned += v.GetThinnedBytes()
	}
	if thinned > 0 {
		p.line("  %s thinned away since the stores were opened", iecSigned(thinned))
	}
}
