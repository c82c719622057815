package gateway

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-io/fairlead/internal/limits"
	"github.com/fairlead-io/fairlead/internal/rules"
)

const (
	maxLocals   = 100_000 // keys whose use is remembered
	evictSample = 32      // looked at to make room for another
)

// locals counts what keys take from limits in this gateway alone: for those with
// failMode `local`, while the ratelimit service does not decide.
type locals struct {
	mu      sync.Mutex
	buckets map[bucketKey]localBucket
	most    int

	forgotten atomic.Int64 // buckets that made room though they were not full
}

type bucketKey struct{ limit, key string }

type localBucket struct {
	limits.Bucket
	limit *rules.Limit // as it was when something was last taken
}

func newLocals() *locals { return &locals{buckets: map[bucketKey]localBucket{}, most: maxLocals} }

// take takes what is asked n times, each by itself, and returns how many times it
// was there, with what was said to the last one that counts: the first refusal,
// where there is one.
func (l *locals) take(a limits.Ask, n int64, now time.Time) limits.Answer {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := bucketKey{a.Limit.Name, a.Key}
	policy := limits.PolicyOf(a.Limit)
	if a.Limit.Shadow {
		policy.Block = 0 // who is not refused is not banned
	}
	bucket := l.buckets[key].Bucket
	var answer limits.Answer
	for answer.Granted < n {
		bucket, answer.Verdict = policy.Take(bucket, a.Cost, now)
		if !answer.Allowed {
			break
		}
		answer.Granted++
	}
	l.put(key, localBucket{bucket, a.Limit}, now)
	return shadow(a.Limit, answer, n)
}

// takeAll takes all of several asks or none of them.
func (l *locals) takeAll(asks []limits.Ask, now time.Time) (granted bool, _ []limits.Answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	answers := make([]limits.Answer, len(asks))
	after := make(map[bucketKey]limits.Bucket, len(asks))
	granted = true
	for i, a := range asks {
		key := bucketKey{a.Limit.Name, a.Key}
		bucket, ok := after[key]
		if !ok {
			bucket = l.buckets[key].Bucket
		}
		policy := limits.PolicyOf(a.Limit)
		policy.Block = 0 // who is refused for another's want is not banned
		after[key], answers[i].Verdict = policy.Take(bucket, a.Cost, now)
		if answers[i].Allowed {
			answers[i].Granted = 1
		}
		answers[i] = shadow(a.Limit, answers[i], 1)
		granted = granted && answers[i].Allowed
	}
	if granted {
		for _, a := range asks {
			key := bucketKey{a.Limit.Name, a.Key}
			l.put(key, localBucket{after[key], a.Limit}, now)
		}
	}
	return granted, answers
}

// shadow makes a refusal of a limit with `shadow` what its callers hear.
func shadow(limit *rules.Limit, answer limits.Answer, n int64) limits.Answer {
	if limit.Shadow && !answer.Allowed {
		answer.Allowed, answer.Shadowed, answer.Granted, answer.RetryAfter = true, true, n, 0
	}
	return answer
}

// put remembers a bucket. The caller holds l.mu.
func (l *locals) put(key bucketKey, b localBucket, now time.Time) {
	if _, ok := l.buckets[key]; !ok && len(l.buckets) >= l.most {
		l.evict(now)
	}
	l.buckets[key] = b
}

// evict makes room for one: it drops the full buckets among a few, which say
// nothing, else the one that was used least recently, a banned one last. The
// caller holds l.mu.
func (l *locals) evict(now time.Time) {
	var oldest bucketKey
	var least localBucket
	seen, dropped := 0, false
	for key, b := range l.buckets {
		policy := limits.PolicyOf(b.limit)
		if policy.Full(b.Bucket, now) {
			delete(l.buckets, key)
			dropped = true
		} else if least.limit == nil || sooner(b.Bucket, least.Bucket, now) {
			oldest, least = key, b
		}
		if seen++; seen == evictSample {
			break
		}
	}
	if !dropped {
		delete(l.buckets, oldest)
		l.forgotten.Add(1)
	}
}

// sooner reports whether a bucket is rather to be forgotten than another.
func sooner(b, other limits.Bucket, now time.Time) bool {
	at := now.UnixMicro()
	if banned, too := at < b.Ban, at < other.Ban; banned != too {
		return too
	}
	return b.At < other.At
}

func (l *locals) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.buckets)
}
