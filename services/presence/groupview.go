package presence

import (
	"encoding/json"
	"fmt"
	"sync"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// knownGroup is a group as it was stored under a revision. It never changes.
type knownGroup struct {
	entry    wire.GroupEntry
	revision uint64
	size     int // of the entry in the bucket
}

// readGroup reads a group from an entry of the bucket. One that was deleted is
// a group without members.
func readGroup(group string, e kv.Entry) (*knownGroup, error) {
	k := &knownGroup{entry: wire.GroupEntry{Group: group}, revision: e.Revision, size: len(e.Value)}
	if e.Deleted {
		return k, nil
	}
	if err := json.Unmarshal(e.Value, &k.entry); err != nil {
		return nil, fmt.Errorf("read the entry of group %q: %w", group, err)
	}
	return k, nil
}

// holder is what the seats of one gateway's epoch have in common.
type holder struct {
	gateway string
	epoch   uint64
}

// groupView is what a replica knows of all groups, and which gateways have
// seats in which.
type groupView struct {
	mu      sync.Mutex
	groups  map[string]*knownGroup         // by group; guarded by mu, like holders
	holders map[holder]map[string]struct{} // the groups, by who has seats there
}

func newGroupView() *groupView {
	return &groupView{groups: map[string]*knownGroup{}, holders: map[holder]map[string]struct{}{}}
}

// get returns what is known of a group, nil for nothing.
func (v *groupView) get(group string) *knownGroup {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.groups[group]
}

// note takes in what a group is, unless something newer is known. A group that
// is not there any more has no entry.
func (v *groupView) note(group string, k *knownGroup, gone bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.groups[group]
	if before != nil && before.revision >= k.revision {
		return
	}
	if before != nil {
		for h := range holdersOf(before) {
			delete(v.holders[h], group)
			if len(v.holders[h]) == 0 {
				delete(v.holders, h)
			}
		}
	}
	if gone {
		delete(v.groups, group)
		return
	}
	v.groups[group] = k
	for h := range holdersOf(k) {
		if v.holders[h] == nil {
			v.holders[h] = map[string]struct{}{}
		}
		v.holders[h][group] = struct{}{}
	}
}

func holdersOf(k *knownGroup) map[holder]struct{} {
	all := map[holder]struct{}{}
	for _, seat := range k.entry.Members {
		if seat.Gateway != "" {
			all[holder{seat.Gateway, seat.Epoch}] = struct{}{}
		}
	}
	return all
}

// heldBy returns the groups in which somebody has a seat of whom dead says so.
func (v *groupView) heldBy(dead func(gateway string, epoch uint64) bool) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	groups := map[string]struct{}{}
	for h, in := range v.holders {
		if dead(h.gateway, h.epoch) {
			for group := range in {
				groups[group] = struct{}{}
			}
		}
	}
	list := make([]string, 0, len(groups))
	for group := range groups {
		list = append(list, group)
	}
	return list
}

// epoch returns the newest in which a gateway took a seat.
func (v *groupView) epoch(gateway string) (newest uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for h := range v.holders {
		if h.gateway == gateway {
			newest = max(newest, h.epoch)
		}
	}
	return newest
}

// gateways returns the gateways that have seats.
func (v *groupView) gateways() map[string]struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	ids := map[string]struct{}{}
	for h := range v.holders {
		ids[h.gateway] = struct{}{}
	}
	return ids
}
