package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// clearing is how many keys a clear of one policy works on at a time.
const clearing = 32

// Clear fills the buckets of every key, of one policy or of all, and ends their
// bans. It returns how many keys had something to clear.
func (s *Service) Clear(ctx context.Context, req wire.LimitPolicyRequest) (wire.LimitCleared, error) {
	if req.Policy != "" {
		if _, err := s.policy("policy", req.Policy); err != nil {
			return wire.LimitCleared{}, err
		}
	}
	if err := s.counting(); err != nil {
		return wire.LimitCleared{}, err
	}
	count, err := s.clear(ctx, req.Policy)
	if err != nil {
		return wire.LimitCleared{}, s.failed(err)
	}
	return wire.LimitCleared{Count: count}, nil
}

func (s *Service) clear(ctx context.Context, policy string) (count int64, err error) {
	if policy == "" {
		var purged int
		purged, err = s.store.Purge(ctx)
		count = int64(purged)
	} else {
		count, err = s.dropAll(ctx, policy)
	}
	// What is written now has a newer revision than all that was cleared. Some may
	// have been where there was an error.
	said, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseWait)
	defer cancel()
	revision, failed := s.clock.renew(said)
	if failed != nil {
		return 0, errors.Join(err, failed)
	}
	s.keeper.forgetAll(revision)
	s.changed(wire.LimitChange{Policy: policy, Revision: revision})
	return count, err
}

// Purge removes every entry of this version, and nothing else.
func (b bucket) Purge(ctx context.Context) (int, error) { return b.PurgeKeys(ctx, entryPrefix+">") }

// dropAll takes a policy out of every key.
func (s *Service) dropAll(ctx context.Context, policy string) (int64, error) {
	var count atomic.Int64
	var one atomic.Pointer[error]
	group, work := errgroup.WithContext(ctx)
	group.SetLimit(clearing)
	err := s.keeper.keys(work, func(key string) bool {
		group.Go(func() error {
			dropped, err := s.keeper.drop(work, key, policy)
			if dropped {
				count.Add(1)
			}
			if err == nil {
				return nil
			}
			err = fmt.Errorf("clear a key: %w", err)
			if code := wire.CodeOf(err); code == wire.Internal || code == wire.Aborted {
				one.CompareAndSwap(nil, &err) // it is about this key: the others are cleared
				return nil
			}
			return err
		})
		return work.Err() == nil
	})
	if failed := group.Wait(); failed != nil {
		err = failed
	} else if failed := one.Load(); err == nil && failed != nil {
		err = *failed
	}
	return count.Load(), err
}
