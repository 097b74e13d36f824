package replication

import (
	"fmt"

	"github.com/lockstep-csi/lockstep/group"
)

// Standing is what a site durably holds about its place in a group: the part
// of group.State that decides who may send to whom.
type Standing struct {
	Role group.Role
	Term group.Term
	// Source is the site that owns Term while Role is group.RoleReplica;
	// empty when this site gave up its role and does not know its successor.
	Source string
}

// Owner is the site that was promoted to the term: site itself when it is
// primary, its source otherwise.
func (s Standing) Owner(site string) string {
	if s.Role == group.RolePrimary {
		return site
	}
	return s.Source
}

// Fenced is the standing of an engine that was fenced at a term: a higher one
// than it holds was or will be given to a site that the fence does not name.
func (s Standing) Fenced(term group.Term) Standing {
	if term <= s.Term {
		return s
	}
	return Standing{Role: group.RoleReplica, Term: term}
}

// verdict is the outcome of comparing an offered term with a standing.
type verdict int

const (
	verdictKeep   verdict = iota // already a replica of the peer at this term
	verdictFollow                // record peer and term durably, then go on
	verdictDemote                // as verdictFollow, and stop being primary
)

// judge compares what a peer offers with what this site holds. A term belongs
// to the one site that was promoted to it, so (term, owner) is what is
// compared. known is false for a group that this site never heard of. The
// table, which docs/replication.md repeats:
//
//	held term   role      source      verdict
//	(unknown)   -         -           follow
//	higher      any       any         refuse: ErrStaleTerm
//	equal       primary   -           refuse: ErrSplitBrain
//	equal       replica   the peer    keep
//	equal       replica   none        follow
//	equal       replica   other site  refuse: ErrSplitBrain
//	lower       replica   any         follow
//	lower       primary   -           demote
func judge(site, peer, groupName string, held Standing, known bool, offered group.Term) (verdict, error) {
	if peer == site {
		return 0, fmt.Errorf("site %s sends to itself: %w", site, ErrProtocol)
	}
	refuse := func(kind error) (verdict, error) {
		return 0, &TermError{Kind: kind, Group: groupName, Offered: offered, Held: held.Term, Owner: held.Owner(site)}
	}
	primary := held.Role == group.RolePrimary
	switch {
	case !known:
		return verdictFollow, nil
	case offered < held.Term:
		return refuse(ErrStaleTerm)
	case offered > held.Term && primary:
		return verdictDemote, nil
	case offered > held.Term:
		return verdictFollow, nil
	case primary:
		return refuse(ErrSplitBrain)
	case held.Source == peer:
		return verdictKeep, nil
	case held.Source == "":
		return verdictFollow, nil
	}
	return refuse(ErrSplitBrain)
}
