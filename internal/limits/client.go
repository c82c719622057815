package limits

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Ask is what is wanted of one bucket.
type Ask struct {
	Limit *rules.Limit
	Key   string // 1-255 bytes, no control characters
	Cost  int64  // 0 takes nothing
}

// Answer is what became of an [Ask].
type Answer struct {
	// Verdict is about the last of the n that were wanted: Allowed is that all
	// of them were.
	Verdict
	Granted  int64 // of the n that were wanted
	Shadowed bool  // allowed only because the limit has `shadow`
	Cached   bool  // a denial that was remembered: nobody was asked
	// Revision is that of the key's entry when it was decided, Version that of the
	// limit by which: 0 and "" where nobody was asked.
	Revision uint64
	Version  string
}

// Config is how a [Client] is set up.
type Config struct {
	NATS      *nats.Conn // stays the caller's
	Namespace wire.Namespace
	Log       *slog.Logger
	// Remember has denials and bans remembered, for at most 5 s, while
	// [Client.Run] hears what makes them untrue.
	Remember bool
	// Self is the replica that asks, where it is one: what it prefers itself is
	// never asked of others ([Client.Mine]), and where another one does not answer
	// there is an error at once: it decides itself. "" for everybody else.
	Self string
	// Wait is how long a call waits whose context has no deadline; 5 s when 0. It
	// costs no timer for each call, as a deadline in the context does.
	Wait time.Duration
	Now  func() time.Time // time.Now when nil; for what is remembered
}

const (
	defaultWait = 5 * time.Second
	// waitingMost is how many calls wait at a time, of all keys.
	waitingMost = 1 << 16
)

// Client asks the ratelimit service. Its methods may be called concurrently. It
// has no goroutine of its own but in [Client.Run], and is done with when its
// connection is.
//
// Calls that want the same of one key while it is being asked for wait, and go
// together in the next request; what is asked of one replica meanwhile goes with
// them. Of a replica that does not answer within half of the time that there is,
// 20-500 ms, another one that is known is asked in its place, unless it was asked for
// several keys and answers others; one that said nothing at all meanwhile is left
// out until it is heard again. The first may have charged
// the key before: it is charged again then, so that less is granted than could be,
// never more.
type Client struct {
	cfg     Config
	general string    // subject on which any replica answers
	waiters sync.Pool // of *waiter
	view    atomic.Pointer[affinity]

	mu       sync.Mutex // guards all below
	prefix   string     // of the reply subjects, with the last dot; "" before the first request
	affinity *affinity  // changes are seen in view too, by show
	denials  *denials
	hears    bool   // changes arrive: what is remembered is forgotten when it must be
	epoch    uint64 // of the memory: what was asked in an earlier one is not remembered
	folds    map[foldKey]*fold
	lanes    map[string]*lane // by replica, "" for any
	dirty    []*lane          // that may have something to send
	deals    []deal           // what is to be told when mu is given back
	parked   map[parkKey][]*fold
	strange  map[string]time.Time // policies that were not known, and until when they go alone
	flying   map[string]*request  // by the last token of the reply subject
	tokens   uint64
	marks    uint64
	timed    timedList // who has no deadline of his own, by time
	timer    *time.Timer
	armed    bool
	counts   Counts
}

// Counts are what a client did so far, and what it holds.
type Counts struct {
	Asked      int64 // requests to the service
	Folded     int64 // calls that went with an earlier one
	Remembered int64 // denials that nobody was asked for
	Forgotten  int64 // denials that a change or a lost connection made unsure
	Dropped    int64 // denials, replicas and calls for which there was no room
	Fallbacks  int64 // requests that another replica had to be asked
	Late       int64 // answers for which nobody waited any more

	Waiting  int64 // calls, now
	Denials  int64 // that are remembered now
	Replicas int64 // that are known now
}

// NewClient returns a client that hears nothing of replicas and changes until
// [Client.Run] does: it asks any replica, and remembers nothing.
func NewClient(cfg Config) *Client {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Wait <= 0 {
		cfg.Wait = defaultWait
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{
		cfg: cfg, general: cfg.Namespace.Svc("ratelimit", "consume"),
		waiters:  sync.Pool{New: func() any { return &waiter{done: make(chan struct{}, 1)} }},
		affinity: newAffinity(cfg.Self), denials: newDenials(),
		folds: map[foldKey]*fold{}, lanes: map[string]*lane{}, parked: map[parkKey][]*fold{},
		strange: map[string]time.Time{}, flying: map[string]*request{},
	}
	c.show()
	return c
}

// show lets Mine see which replicas there are; mu is held.
func (c *Client) show() { c.view.Store(c.affinity.clone()) }

// Mine reports whether Config.Self is the replica that the key prefers.
func (c *Client) Mine(key string) bool {
	return c.cfg.Self != "" && c.view.Load().prefer(key, time.Now()) == c.cfg.Self
}

// Counts returns what the client did so far.
func (c *Client) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.counts
	n.Forgotten += c.denials.forgotten
	n.Dropped += c.denials.dropped
	n.Denials = int64(c.denials.count)
	n.Replicas = int64(c.affinity.count(time.Now()))
	return n
}

// Remembered returns the denial that [Client.Consume] would answer with, without
// asking anybody.
func (c *Client) Remembered(a Ask) (Answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.recall(a)
}

// recall is Remembered; c.mu is held.
func (c *Client) recall(a Ask) (Answer, bool) {
	if c.denials.count == 0 {
		return Answer{}, false
	}
	v, denied := c.denials.look(a.Limit, a.Key, a.Cost, c.cfg.Now())
	if denied {
		c.counts.Remembered++
	}
	return Answer{Verdict: v, Cached: denied}, denied
}

// Consume wants an ask n times, each by itself and in order, and returns how many
// were granted. It waits until ctx ends, for [Config.Wait] where ctx has no
// deadline. An error says that the service did not decide, or that it is not known
// what: UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED when ctx was, NOT_FOUND for a
// policy that its replicas do not know, INVALID_ARGUMENT for a key that cannot be,
// or an n above [wire.MaxLimitRepeats].
func (c *Client) Consume(ctx context.Context, a Ask, n int64) (Answer, error) {
	n = max(n, 1)
	if answer, ok := tooDear(a, n); ok {
		return answer, nil
	}
	if n > wire.MaxLimitRepeats {
		return Answer{}, wire.InvalidField("n", "from 1 to "+strconv.Itoa(wire.MaxLimitRepeats))
	}
	if err := ctx.Err(); err != nil {
		return Answer{}, wire.AsError(err)
	}
	until, own := c.until(ctx)
	c.mu.Lock()
	if denied, ok := c.recall(a); ok {
		c.mu.Unlock()
		return denied, nil
	}
	k := foldKey{a.Limit, a.Key, a.Cost}
	f := c.folds[k]
	if f == nil {
		if err := c.check(a); err != nil {
			c.mu.Unlock()
			return Answer{}, err
		}
		f = &fold{foldKey: k}
	} else {
		c.counts.Folded++
	}
	w, err := c.enter(f, n, until, own)
	if err != nil {
		c.mu.Unlock()
		return Answer{}, err
	}
	if f.state == foldNew {
		c.folds[k] = f
		c.route(f)
	}
	c.unlock()
	err = c.wait(ctx, w)
	answer := w.answer
	c.free(w)
	return answer, err
}

// ConsumeAll wants all of several asks or none of them, and returns what became
// of each: Granted is 1 of each when they were given. Otherwise Allowed tells
// which of them stood in the way, of those that had to be looked at. Its waits and
// errors are those of [Client.Consume].
func (c *Client) ConsumeAll(ctx context.Context, asks []Ask) (granted bool, _ []Answer, _ error) {
	if len(asks) == 0 {
		return true, nil, nil
	}
	if err := ctx.Err(); err != nil {
		return false, nil, wire.AsError(err)
	}
	until, own := c.until(ctx)
	c.mu.Lock()
	if answers := c.refuse(asks, c.cfg.Now()); answers != nil {
		c.mu.Unlock()
		return false, answers, nil
	}
	for _, a := range asks {
		if err := c.check(a); err != nil {
			c.mu.Unlock()
			return false, nil, err
		}
	}
	f := &fold{foldKey: foldKey{key: first(asks)}, all: slices.Clone(asks)}
	w, err := c.enter(f, 1, until, own)
	if err != nil {
		c.mu.Unlock()
		return false, nil, err
	}
	c.route(f)
	c.unlock()
	err = c.wait(ctx, w)
	granted, answers := w.answer.Allowed, w.answers
	c.free(w)
	return granted, answers, err
}

// tooDear answers what no bucket of the limit ever holds.
func tooDear(a Ask, n int64) (Answer, bool) {
	switch {
	case a.Cost <= int64(a.Limit.Capacity):
		return Answer{}, false
	case a.Limit.Shadow:
		return Answer{Verdict: Verdict{Allowed: true}, Granted: n, Shadowed: true}, true
	}
	return Answer{Verdict: Verdict{RetryAfter: wire.Never}}, true
}

// check returns an error for an ask that would spoil a request for others.
func (c *Client) check(a Ask) error {
	if a.Cost < 0 {
		return wire.InvalidField("cost", "not negative")
	}
	if !utf8.ValidString(a.Key) {
		return wire.InvalidField("key", "must be UTF-8")
	}
	_, err := c.cfg.Namespace.LimitEntry(a.Key)
	return err
}

// refuse returns answers where one of several asks is known to be denied; mu is
// held.
func (c *Client) refuse(asks []Ask, now time.Time) []Answer {
	for i, a := range asks {
		answer, ok := tooDear(a, 1)
		if ok = ok && !answer.Allowed; !ok && c.denials.count > 0 {
			if answer.Verdict, ok = c.denials.look(a.Limit, a.Key, a.Cost, now); ok {
				answer.Cached = true
				c.counts.Remembered++
			}
		}
		if !ok {
			continue
		}
		answers := make([]Answer, len(asks))
		for j := range answers {
			answers[j].Allowed = true
		}
		answers[i] = answer
		return answers
	}
	return nil
}

// first returns the first key in order: whoever wants the same keys asks the
// same replica.
func first(asks []Ask) string {
	key := asks[0].Key
	for _, a := range asks[1:] {
		key = min(key, a.Key)
	}
	return key
}

// until is when a call ends, and whether its own context ends it.
func (c *Client) until(ctx context.Context) (time.Time, bool) {
	if until, ok := ctx.Deadline(); ok {
		return until, true
	}
	return time.Now().Add(c.cfg.Wait), false
}
