package runner

import (
	"context"

	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// strays are attempts that are this replica's in the store, and that it does not
// supervise: nobody else looks after them, for their owner is alive. There should be
// none; how ever one comes about, its task must not wait for the end of the replica.
type strays struct {
	owner store.Owner
	seen  map[store.Ref]bool // the last time
}

// next takes in what is not supervised, and returns what was not the last time
// either: what was claimed a moment ago is on its way here.
func (s *strays) next(owner store.Owner, missing []store.Ref) (lost []store.Ref) {
	if s.owner != owner {
		s.seen = nil
	}
	seen := make(map[store.Ref]bool, len(missing))
	for _, ref := range missing {
		seen[ref] = true
		if s.seen[ref] {
			lost = append(lost, ref)
		}
	}
	s.owner, s.seen = owner, seen
	return lost
}

// adoptStrays takes up what strays.
func (r *Runner) adoptStrays(ctx context.Context, s *strays) {
	owner, able := r.able()
	if !able {
		return
	}
	refs, err := r.store.Owned(ctx, owner)
	if err != nil {
		return
	}
	lost := s.next(owner, r.table.missing(refs))
	for ; len(lost) > 0 && ctx.Err() == nil; lost = lost[min(len(lost), mostRows):] {
		got, err := r.store.Adopt(ctx, owner, lost[:min(len(lost), mostRows)])
		if err != nil {
			if !unsent(err) {
				r.owner.doubt(owner)
			}
			return
		}
		for i := range got {
			r.adopt(got[i], owner)
		}
		if len(got) > 0 {
			r.log.Warn("attempts were supervised by nobody", "attempts", len(got))
		}
	}
}
