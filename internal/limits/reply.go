package limits

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// deal is what became of calls, which are in no list any more: linked by next,
// they belong to it.
type deal struct {
	first   *waiter
	err     error
	denied  *Answer            // to all of them
	verdict *wire.LimitVerdict // to all of them, by what was granted
	cost    int64
	all     []Answer // to one call of ConsumeAll
	granted bool     // with all
}

// give tells every call, in the order in which they came. No lock is held.
func (d *deal) give() {
	left := int64(0)
	if d.verdict != nil {
		left = d.verdict.Granted
	}
	for w := d.first; w != nil; {
		next := w.next // w is its call's own as soon as it is told
		switch {
		case d.err != nil:
			w.err = d.err
		case d.denied != nil:
			w.answer = *d.denied
		case d.verdict != nil:
			got := min(w.want, left)
			left -= got
			w.answer = answerOf(d.verdict, got, w.want, left*d.cost)
		default:
			w.answers, w.answer.Allowed = d.all, d.granted
		}
		w.done <- struct{}{}
		w = next
	}
}

// answerOf returns what a verdict about several is to a call that got so many of
// what it wanted, before others took what there was behind it.
func answerOf(v *wire.LimitVerdict, got, want, behind int64) Answer {
	a := Answer{Granted: got, Revision: v.Revision, Version: v.Version}
	a.Remaining = v.Remaining
	a.Reset = time.Duration(v.ResetMs) * time.Millisecond
	switch {
	case got == want:
		a.Allowed, a.Shadowed = true, v.Shadowed // one of those that went together was
		if !v.Banned {
			a.Remaining = min(v.Remaining+behind, max(v.Limit, v.Remaining))
		}
	default:
		a.Banned, a.RetryAfter = v.Banned, v.RetryAfterMs.Duration()
	}
	return a
}

// deny answers everybody who waits in a fold, and drops it; mu is held.
func (c *Client) deny(f *fold, a Answer) {
	f.want, f.until = 0, time.Time{}
	c.deals = append(c.deals, deal{first: c.take(&f.waiting), denied: &a})
	c.forgetFold(f)
}

// replied takes an answer of the service. It is called by one goroutine.
func (c *Client) replied(msg *nats.Msg) {
	var reply wire.LimitReply
	err := readReply(msg, &reply)
	token := msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:]
	c.mu.Lock()
	defer c.unlock()
	r := c.flying[token]
	if r == nil {
		c.counts.Late++
		for _, l := range c.lanes {
			if strings.HasPrefix(token, l.mark) {
				l.heard = time.Now() // it is slow, not gone
			}
		}
		return
	}
	r.lane.heard = time.Now()
	c.land(r)
	if err == nil {
		err = r.fits(&reply)
	}
	switch {
	case err != nil:
		c.refused(r, err)
	case r.takes[0].fold.all != nil:
		c.answeredAll(r, &reply)
	default:
		for i, t := range r.takes {
			c.answered(r, t, &reply.Batch[i])
		}
	}
}

// parser is a reply that reads itself, faster than encoding/json does.
type parser interface{ ParseJSON(data []byte) error }

func readReply(msg *nats.Msg, reply *wire.LimitReply) error {
	if len(msg.Header) > 0 {
		if len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
			return nats.ErrNoResponders
		}
		if coded := wire.ParseErrorHeader(msg.Header, msg.Data); coded != nil {
			var more struct {
				Details struct {
					Outcome string `json:"outcome"`
				} `json:"details"`
			}
			if json.Unmarshal(msg.Data, &more) == nil && more.Details.Outcome != "" {
				coded = coded.With("outcome", more.Details.Outcome)
			}
			return coded
		}
	}
	if p, ok := any(reply).(parser); ok {
		return p.ParseJSON(msg.Data)
	}
	return json.Unmarshal(msg.Data, reply)
}

// fits returns an error for a reply to something else.
func (r *request) fits(reply *wire.LimitReply) error {
	got, want := len(reply.Batch), len(r.takes)
	if all := r.takes[0].fold.all; all != nil {
		got, want = len(reply.Takes), len(all)
	}
	if got != want {
		return errors.New("the ratelimit service answered something else than it was asked")
	}
	return nil
}

// answered deals with what became of one take; mu is held.
func (c *Client) answered(r *request, t taken, v *wire.LimitVerdict) {
	f := t.fold
	if v.Code != "" {
		outcome := "none"
		if v.Code == wire.DeadlineExceeded {
			outcome = "unknown"
		}
		c.undecided(r, f, wire.Errorf(v.Code, "the ratelimit service did not decide").With("outcome", outcome))
		return
	}
	c.deals = append(c.deals, deal{first: c.take(&f.sent), verdict: v, cost: f.cost})
	f.trouble = trouble{}
	switch {
	case v.Granted >= t.n || v.Shadowed:
		if c.denials.count > 0 {
			c.denials.allow(f.limit.Name, f.key, c.cfg.Now())
		}
	case c.hears && c.cfg.Remember && r.epoch == c.epoch:
		c.denials.remember(f.limit, f.key, f.cost, v, c.cfg.Now())
	}
	c.settle(f)
	c.route(f)
}

// answeredAll deals with what became of takes of which all are given or none; mu
// is held.
func (c *Client) answeredAll(r *request, reply *wire.LimitReply) {
	f := r.takes[0].fold
	answers := make([]Answer, len(f.all))
	for i := range answers {
		v, a := &reply.Takes[i], &answers[i]
		*a = Answer{Shadowed: v.Shadowed, Revision: v.Revision, Version: v.Version}
		a.Verdict = Verdict{Allowed: v.Allowed, Banned: v.Banned, Remaining: v.Remaining, Reset: time.Duration(v.ResetMs) * time.Millisecond}
		if v.Allowed {
			if reply.Allowed {
				a.Granted = 1
			}
			if c.denials.count > 0 {
				c.denials.allow(f.all[i].Limit.Name, f.all[i].Key, c.cfg.Now())
			}
			continue
		}
		a.RetryAfter = v.RetryAfterMs.Duration()
		if c.hears && c.cfg.Remember && r.epoch == c.epoch && once(f.all, i) {
			c.denials.remember(f.all[i].Limit, f.all[i].Key, f.all[i].Cost, v, c.cfg.Now())
		}
	}
	c.deals = append(c.deals, deal{first: c.take(&f.sent), all: answers, granted: reply.Allowed})
	c.settle(f)
	c.route(f)
}

// once reports whether nothing else of several asks is of the same bucket: else the
// verdict is about what they cost together.
func once(asks []Ask, i int) bool {
	for j, a := range asks {
		if j != i && a.Key == asks[i].Key && a.Limit.Name == asks[i].Limit.Name {
			return false
		}
	}
	return true
}

// undecided deals with what was not decided about one fold of a request: it is asked
// for once more where nothing was taken and another moment or another replica may
// be better; mu is held.
func (c *Client) undecided(r *request, f *fold, err *wire.Error) {
	outcome, told := err.Details["outcome"]
	switch err.Code {
	case wire.NotFound, wire.InvalidArgument, wire.DeadlineExceeded, wire.Cancelled:
		c.fail(f, err, false)
		return
	case wire.Unavailable:
		if outcome == "none" && r.lane.replica != "" && f.silent == "" {
			f.silent = r.lane.replica
			c.divertFold(f, err)
			return
		}
		c.fail(f, err, false)
		return
	case wire.Aborted: // others change the key too fast: nothing was taken
		if !f.aborted {
			f.aborted = true
			c.again(f)
			return
		}
		outcome = "none"
	case wire.ResourceExhausted: // about requests, and must not be taken for a limit
		outcome = "none"
	default:
		if !told {
			outcome = "unknown"
		}
	}
	c.fail(f, wire.Errorf(wire.Unavailable, "%s", err.Message).With("outcome", outcome), false)
}

// refused deals with an error that the service answered; mu is held.
func (c *Client) refused(r *request, err error) {
	var coded *wire.Error
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		coded = wire.Errorf(wire.Unavailable, "nobody serves the limits").With("outcome", "none")
		if r.lane.replica != "" {
			c.gone(r.lane.replica)
			c.divert(r, coded)
			return
		}
	case !errors.As(err, &coded):
		c.cfg.Log.Warn("answer of the ratelimit service not read", "err", err)
		coded = wire.Errorf(wire.Unavailable, "the ratelimit service answered what cannot be read").With("outcome", "unknown")
	case coded.Code == wire.NotFound || coded.Code == wire.InvalidArgument:
		// Nothing was taken. One that is not known must not spoil the others, which
		// go again, each by itself.
		if len(r.takes) > 1 {
			for _, t := range r.takes {
				t.fold.alone = true
				c.again(t.fold)
			}
			return
		}
		if t := r.takes[0]; coded.Code == wire.NotFound && t.fold.all == nil && len(c.strange) < strangeMost {
			c.strange[t.fold.limit.Name] = time.Now().Add(strangeLife)
		}
	case coded.Code == wire.Unavailable:
		// It stops, or cannot count: another one may.
		if r.lane.replica != "" && coded.Details["outcome"] == "none" {
			c.gone(r.lane.replica)
			c.divert(r, coded)
			return
		}
	default:
		coded.Message = "the ratelimit service did not decide: " + coded.Message
	}
	for _, t := range r.takes {
		c.undecided(r, t.fold, coded)
	}
}

// divert asks again for what a replica did not answer: the one that is preferred
// now, or any; mu is held.
func (c *Client) divert(r *request, err *wire.Error) {
	c.counts.Fallbacks++
	for _, t := range r.takes {
		c.divertFold(t.fold, err)
	}
}

func (c *Client) divertFold(f *fold, err *wire.Error) {
	if f.tries++; f.tries >= triesMost || c.cfg.Self != "" {
		c.fail(f, err, false)
		return
	}
	c.again(f)
}

// again puts those who were sent back in front of those who wait, and sends them;
// mu is held.
func (c *Client) again(f *fold) {
	if f.sent.first != nil {
		back := f.sent
		if f.waiting.first != nil {
			back.last.next, f.waiting.first.prev = f.waiting.first, back.last
			back.last = f.waiting.last
		}
		f.sent, f.waiting = waiterList{}, back
	}
	f.want, f.until = 0, time.Time{}
	for w := f.waiting.first; w != nil; w = w.next {
		w.round = f.round
		f.want += w.want
		if w.until.After(f.until) {
			f.until = w.until
		}
	}
	if f.waiting.first == nil {
		c.settle(f)
		c.forgetFold(f)
		return
	}
	c.enqueue(f)
}

// fail answers those of a fold who were sent with an error, and all the others too
// where they could only hear the same; mu is held.
func (c *Client) fail(f *fold, err error, everybody bool) {
	c.deals = append(c.deals, deal{first: c.take(&f.sent), err: err})
	if everybody {
		f.want, f.until = 0, time.Time{}
		c.deals = append(c.deals, deal{first: c.take(&f.waiting), err: err})
	}
	f.trouble = trouble{}
	c.settle(f)
	c.route(f)
}

// failed deals with a request that could not be sent; mu is not held.
func (c *Client) failed(r *request, err error) {
	coded := wire.Errorf(wire.Unavailable, "NATS is away").With("outcome", "none")
	if !bus.Away(err) && !errors.Is(err, nats.ErrConnectionClosed) {
		c.cfg.Log.Warn("request to the ratelimit service not sent", "err", err)
		coded = wire.Errorf(wire.Unavailable, "the ratelimit service cannot be asked").With("outcome", "none")
	}
	c.mu.Lock()
	defer c.unlock()
	if c.flying[r.token] != r {
		return
	}
	c.land(r)
	for _, t := range r.takes {
		c.fail(t.fold, coded, true)
	}
}

// sweep ends what takes too long.
func (c *Client) sweep() {
	now := time.Now()
	c.mu.Lock()
	defer c.unlock()
	c.armed = false
	for w := c.timed.first; w != nil && !now.Before(w.until); w = c.timed.first {
		c.leave(w)
		c.deals = append(c.deals, deal{first: w, err: late()})
	}
	for _, r := range c.flying {
		switch {
		case !now.Before(r.until):
			c.land(r)
			for _, t := range r.takes {
				c.fail(t.fold, late(), false)
			}
		case r.quiet.IsZero() || now.Before(r.quiet):
		case len(r.takes) > 1 && r.lane.heard.After(r.since):
			// One of its keys may be slow. The replica answers the others in time: asked
			// again elsewhere all of them would be charged twice.
			r.since, r.quiet = now, now.Add(r.quiet.Sub(r.since))
		case c.other(r, now):
			c.land(r)
			if !r.lane.heard.After(r.since) {
				c.gone(r.lane.replica)
			}
			for _, t := range r.takes {
				t.fold.silent = r.lane.replica
			}
			c.divert(r, wire.Errorf(wire.Unavailable, "the replica %s does not answer", r.lane.replica).With("outcome", "unknown"))
		default:
			r.quiet = time.Time{} // there is nobody else
		}
	}
	if len(c.flying) > 0 || c.timed.first != nil {
		c.arm()
	}
}

// other reports whether there is another replica to ask, in place of one that does
// not answer, and none was asked in such a one's place before; mu is held.
func (c *Client) other(r *request, now time.Time) bool {
	if r.lane.replica == "" {
		return false
	}
	for _, t := range r.takes {
		if t.fold.silent != "" {
			return false
		}
	}
	return c.cfg.Self != "" || c.affinity.others(r.lane.replica, now)
}

// gone leaves a replica out until it is heard again, and takes away what waits to
// be sent to it; mu is held.
func (c *Client) gone(id string) {
	c.affinity.drop(id)
	c.show()
	l := c.lanes[id]
	if l == nil || id == "" {
		return
	}
	for _, q := range [...]*queue{&l.batch, &l.alone} {
		var moved queue // what is enqueued may come back here, where id is Config.Self
		moved.first, moved.last, q.first, q.last = q.first, q.last, nil, nil
		for f := moved.pop(); f != nil; f = moved.pop() {
			c.enqueue(f)
		}
	}
}

func late() *wire.Error {
	return wire.Errorf(wire.DeadlineExceeded, "no answer from the ratelimit service in time")
}
