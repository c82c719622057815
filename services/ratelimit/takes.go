package ratelimit

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// mode is where a request for tokens is decided.
type mode uint8

const (
	byPreferred mode = iota // by the replica that prefers the key
	byThis                  // by this one
	lookOnly                // by this one, and nothing is taken
)

// asked is one take that was checked.
type asked struct {
	take
	key string
	n   int64
}

// take answers a request for tokens, in whichever of its three forms.
func (s *Service) take(ctx context.Context, req *wire.LimitRequest, m mode) (wire.LimitReply, error) {
	single := req.Policy != "" || req.Key != "" || req.Cost != nil || req.N != 0
	switch {
	case req.Takes != nil && (single || req.Batch != nil):
		return wire.LimitReply{}, wire.InvalidField("takes", "not beside policy, key, cost, n or batch")
	case req.Batch != nil && single:
		return wire.LimitReply{}, wire.InvalidField("batch", "not beside policy, key, cost or n")
	case req.Takes != nil:
		return s.takeAll(ctx, req.Takes, m)
	case req.Batch != nil:
		return s.takeEach(ctx, req.Batch, m)
	case req.N != 0:
		return wire.LimitReply{}, wire.InvalidField("n", "in a batch only")
	}
	one, err := s.check("", &req.LimitTake)
	if err != nil {
		return wire.LimitReply{}, err
	}
	verdict, err := s.takeOne(ctx, one, m)
	verdict.Granted = 0 // of a batch only
	return wire.LimitReply{LimitVerdict: verdict}, err
}

// takeOne decides one take, n times.
func (s *Service) takeOne(ctx context.Context, a asked, m mode) (wire.LimitVerdict, error) {
	var asked error
	if m == byPreferred {
		verdict, ok, err := s.forward(ctx, a)
		if ok {
			return verdict, nil
		}
		asked = err
	}
	out, err := outcome{}, s.counting()
	if err == nil {
		out, err = s.keeper.consume(ctx, a.key, []take{a.take}, a.n, m == lookOnly)
	}
	if err != nil {
		if asked != nil && open(asked) {
			err = errUnknown // the other one may have taken
		}
		return wire.LimitVerdict{}, s.failed(err)
	}
	verdict := out.verdicts[0]
	verdict.Granted = out.granted
	return verdict, nil
}

// takeAll gives all takes, or none. Several of one policy and key are one, of
// what they cost together.
func (s *Service) takeAll(ctx context.Context, takes []wire.LimitTake, m mode) (wire.LimitReply, error) {
	all, err := s.checkAll("takes", takes)
	if err != nil {
		return wire.LimitReply{}, err
	}
	for i := range takes {
		if takes[i].N != 0 {
			return wire.LimitReply{}, wire.InvalidField(fmt.Sprintf("takes[%d].n", i), "in a batch only")
		}
	}
	if err := s.counting(); err != nil {
		return wire.LimitReply{}, err
	}
	merged, at := merge(all)
	verdicts, granted, err := s.decideAll(ctx, merged, m == lookOnly)
	if err != nil {
		return wire.LimitReply{}, s.failed(err)
	}
	reply := wire.LimitReply{LimitVerdict: summary(verdicts, granted), Takes: make([]wire.LimitVerdict, len(all))}
	for i := range all {
		reply.Takes[i] = verdicts[at[i]]
		reply.Takes[i].Granted = 0
	}
	return reply, nil
}

// merge adds up what is wanted of the same bucket, and returns where each take is.
func merge(all []asked) (merged []asked, at []int) {
	type id struct{ policy, key string }
	at, seen := make([]int, len(all)), make(map[id]int, len(all))
	for i, a := range all {
		j, ok := seen[id{a.limit.Name, a.key}]
		if !ok {
			j = len(merged)
			seen[id{a.limit.Name, a.key}] = j
			merged = append(merged, a)
		} else {
			merged[j].cost = sum(merged[j].cost, a.cost)
		}
		at[i] = j
	}
	return merged, at
}

// decideAll decides takes of different buckets, all or none.
func (s *Service) decideAll(ctx context.Context, all []asked, look bool) ([]wire.LimitVerdict, bool, error) {
	oneKey := true
	for i := range all {
		oneKey = oneKey && all[i].key == all[0].key
	}
	switch {
	case oneKey:
		takes := make([]take, len(all))
		for i := range all {
			takes[i] = all[i].take
		}
		out, err := s.keeper.consume(ctx, all[0].key, takes, 1, look)
		return out.verdicts, out.granted == 1, err
	case look:
		verdicts := make([]wire.LimitVerdict, len(all))
		for i := range all {
			out, err := s.keeper.consume(ctx, all[i].key, []take{all[i].take}, 1, true)
			if err != nil {
				return nil, false, err
			}
			verdicts[i] = out.verdicts[0]
		}
		return verdicts, allowed(verdicts), nil
	}
	items := make([]keyed, len(all))
	for i := range all {
		items[i] = keyed{key: all[i].key, take: all[i].take}
	}
	return s.keeper.consumeAll(ctx, items)
}

func allowed(verdicts []wire.LimitVerdict) bool {
	for i := range verdicts {
		if !verdicts[i].Allowed {
			return false
		}
	}
	return true
}

// summary is the verdict about several takes: that of the one that has to wait
// longest, or, where all were given, of the one with the least left.
func summary(verdicts []wire.LimitVerdict, granted bool) wire.LimitVerdict {
	worst := &verdicts[0]
	for i := range verdicts[1:] {
		if v := &verdicts[i+1]; worse(v, worst) {
			worst = v
		}
	}
	v := *worst
	v.Allowed, v.Granted = granted, 0
	for i := range verdicts {
		v.Banned = v.Banned || verdicts[i].Banned
		v.Shadowed = v.Shadowed || verdicts[i].Shadowed
	}
	return v
}

func worse(v, than *wire.LimitVerdict) bool {
	switch {
	case v.Allowed != than.Allowed:
		return than.Allowed
	case v.RetryAfterMs != than.RetryAfterMs:
		return uint64(v.RetryAfterMs) > uint64(than.RetryAfterMs) // below 0 is never: the longest
	}
	return v.Remaining < than.Remaining
}

// checkAll checks the takes of an array.
func (s *Service) checkAll(field string, takes []wire.LimitTake) ([]asked, error) {
	if len(takes) == 0 || len(takes) > wire.MaxLimitTakes {
		return nil, wire.InvalidField(field, "from 1 to "+strconv.Itoa(wire.MaxLimitTakes))
	}
	all := make([]asked, len(takes))
	for i := range takes {
		var err error
		if all[i], err = s.check(field+"["+strconv.Itoa(i)+"].", &takes[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// check checks a take. What it stands in is named by a path that ends with a dot.
func (s *Service) check(at string, t *wire.LimitTake) (a asked, err error) {
	if a.limit, err = s.policy(at+"policy", t.Policy); err != nil {
		return asked{}, err
	}
	if t.Key == "" || len(t.Key) > maxKey || hasControl(t.Key) {
		return asked{}, wire.InvalidField(at+"key", "from 1 to 255 bytes, no control characters")
	}
	a.key, a.cost, a.n = t.Key, 1, max(t.N, 1)
	if t.Cost != nil {
		a.cost = *t.Cost
	}
	switch {
	case a.cost < 0:
		return asked{}, wire.InvalidField(at+"cost", "a whole number, not negative")
	case t.N < 0 || t.N > wire.MaxLimitRepeats:
		return asked{}, wire.InvalidField(at+"n", "a whole number from 1 to "+strconv.Itoa(wire.MaxLimitRepeats))
	}
	return a, nil
}

const maxKey = 255 // bytes

func hasControl(text string) bool {
	for i := 0; i < len(text); i++ {
		if text[i] < 0x20 || text[i] == 0x7f {
			return true
		}
	}
	return false
}

// policy returns the limit of the rules that a field names.
func (s *Service) policy(field, name string) (*rules.Limit, error) {
	if name == "" {
		return nil, wire.InvalidField(field, "is required")
	}
	limit := s.limit(name)
	if limit == nil {
		return nil, wire.Errorf(wire.NotFound, "the rules have no limit %.64q: %s", name, known(s.deps.Rules.Current().Limits)).With("policy", name)
	}
	return limit, nil
}

// known names the limits that there are, the first few of them.
func known(all []*rules.Limit) string {
	const most = 10
	if len(all) == 0 {
		return "they have none"
	}
	names := make([]string, 0, most)
	for _, l := range all[:min(len(all), most)] {
		names = append(names, l.Name)
	}
	text := "they have " + strings.Join(names, ", ")
	if more := len(all) - most; more > 0 {
		text += " and " + strconv.Itoa(more) + " more"
	}
	return text
}
