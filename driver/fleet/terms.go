package fleet

import (
	"encoding/binary"
	"fmt"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
)

// bucketTerms has, by group, the highest term that engines were ever fenced
// for. A promote that is given up never uses its term again: a call of it that
// arrives late finds a higher fence.
const bucketTerms = "terms"

// claimTerm returns a term that no promote of the group has used; durable on
// return.
func (f *Fleet) claimTerm(name string) (group.Term, error) {
	st, err := f.groups.State(name)
	if err != nil {
		return 0, err
	}
	var term group.Term
	err = f.cfg.DB.Update(func(tx kv.Tx) error {
		term = max(st.Term, decodeTerm(tx.Get(bucketTerms, []byte(name)))) + 1
		return tx.Put(bucketTerms, []byte(name), binary.BigEndian.AppendUint64(nil, uint64(term)))
	})
	if err != nil {
		return 0, fmt.Errorf("claim a term of group %s: %w", name, err)
	}
	return term, nil
}

// claimedTerm is the highest term that was claimed; 0 if none was.
func (f *Fleet) claimedTerm(name string) (term group.Term) {
	_ = f.cfg.DB.View(func(tx kv.Tx) error { // a closed database claims nothing
		term = decodeTerm(tx.Get(bucketTerms, []byte(name)))
		return nil
	})
	return term
}

func decodeTerm(b []byte) group.Term {
	if len(b) != 8 {
		return 0
	}
	return group.Term(binary.BigEndian.Uint64(b))
}
