package gateway

import (
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

const (
	// revokedPrefix is how the keys of revocations begin; the user's token follows.
	revokedPrefix = "revoked."
	// maxRevocations bounds how many users may be revoked at a time. What is in
	// the bucket above twice of it is not kept in memory, and said.
	maxRevocations = 100_000
)

// revocation is the value of a key: tokens of the user that were issued before,
// in epoch milliseconds, are refused.
type revocation struct {
	Before int64 `json:"before"`
}

// revocations says since when the tokens of users count. It holds what the
// bucket has, and what was said to this gateway and is not known to be stored.
type revocations struct {
	most int

	mu     sync.Mutex
	read   bool                        // the bucket was read once, or there is none; guarded by mu, like all below
	stored map[string]storedRevocation // by user
	next   map[string]storedRevocation // what stored becomes when it is complete; nil: nothing is being read
	over   map[string]int64            // of stored, what next has read the end of, and when that was
	own    map[string]ownRevocation
	closed map[string]closings // of users whose connections a revocation ended
	missed int64               // entries that were too many
}

// storedRevocation is one of the bucket.
type storedRevocation struct{ before, at int64 } // at: when it was stored, epoch ms

// ownRevocation is one that is not known to be stored.
type ownRevocation struct {
	before int64
	until  time.Time // when no token can be that old any more
}

// closings are connections that the news from the bucket ended before the
// operator's own message came: they count as reached by it.
type closings struct {
	n  int
	at time.Time
}

// closingsKept is how long the operator's message may come behind the news.
const closingsKept = 10 * time.Second

func newRevocations() *revocations {
	return &revocations{most: maxRevocations, stored: map[string]storedRevocation{}, own: map[string]ownRevocation{}, closed: map[string]closings{}}
}

// ready reports whether it is known who is revoked.
func (r *revocations) ready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.read
}

// without says that there is nothing to be read: the server has no JetStream.
func (r *revocations) without() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.read = true
}

// before returns the time before which a user's tokens count no more, 0 for none.
func (r *revocations) before(user string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.beforeLocked(user)
}

func (r *revocations) beforeLocked(user string) int64 {
	return max(r.stored[user].before, r.next[user].before, r.own[user].before)
}

// check returns UNAUTHENTICATED for an identity whose token was revoked.
func (r *revocations) check(id *auth.Identity) *wire.Error {
	if !outdated(id, r.before(id.User)) {
		return nil
	}
	return wire.Errorf(wire.Unauthenticated, "token: revoked: get a newer one").With("reason", "revoked")
}

// outdated reports whether an identity is of a token issued before a time, in
// epoch milliseconds; 0 makes none outdated. What does not say when it was
// issued is older than anything, and so is an anonymous user.
func outdated(id *auth.Identity, before int64) bool {
	return before > 0 && (id.IssuedAt.IsZero() || id.IssuedAt.UnixMilli() < before)
}

// say notes what an operator says. full is true where there are too many to keep
// one more in mind.
func (r *revocations) say(user string, before int64, until time.Time) (full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stored[user].before >= before {
		return false
	}
	if r.beforeLocked(user) == 0 && max(len(r.stored), len(r.own)) >= r.most {
		return true
	}
	if r.own[user].before < before {
		r.own[user] = ownRevocation{before, until}
	}
	return false
}

// begin makes room for what the bucket has, which [revocations.take] brings.
func (r *revocations) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next, r.over = map[string]storedRevocation{}, map[string]int64{}
}

// take takes an entry of the bucket. news is true where it revokes more than
// was known: the user's connections are to be looked at.
func (r *revocations) take(e kv.Entry) (user string, before int64, news bool) {
	user, ok := revokedUser(e.Key)
	if !ok {
		return "", 0, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	into := r.next
	if into == nil {
		into = r.stored
	}
	if e.Deleted {
		delete(into, user)
		if _, stored := r.stored[user]; stored && r.next != nil {
			r.over[user] = e.At.UnixMilli()
		}
		return user, 0, false
	}
	var v revocation
	if json.Unmarshal(e.Value, &v) != nil || v.Before <= 0 {
		v.Before = e.At.UnixMilli() // somebody meant something: the strictest it can be
	}
	if _, known := into[user]; !known && len(into) >= 2*r.most {
		r.missed++
		return user, 0, false
	}
	news = v.Before > r.beforeLocked(user)
	into[user] = storedRevocation{v.Before, e.At.UnixMilli()}
	if r.own[user].before <= v.Before {
		delete(r.own, user)
	}
	return user, v.Before, news
}

// complete makes what was taken since begin count, in place of what was there. It
// returns of how many users revocations were there that the bucket has forgotten,
// other than by their end: somebody has made it anew, or an older one has come
// back. They count on, for as long as they would have been kept, and are unstored.
func (r *revocations) complete(now time.Time, kept time.Duration) (forgotten int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next != nil {
		for user, s := range r.stored {
			until := time.UnixMilli(s.at).Add(kept)
			newest := max(r.next[user].at, r.over[user]) // word of the user
			if newest >= s.at || max(r.next[user].before, r.own[user].before) >= s.before || !now.Before(until) {
				continue
			}
			r.own[user] = ownRevocation{s.before, until}
			forgotten++
		}
		r.stored, r.next, r.over = r.next, nil, nil
	}
	r.read = true
	for user, c := range r.closed {
		if now.Sub(c.at) > closingsKept {
			delete(r.closed, user)
		}
	}
	return forgotten
}

// unstored returns what was said here and is not known to be stored.
func (r *revocations) unstored(now time.Time) map[string]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.own) == 0 {
		return nil
	}
	all := make(map[string]int64, len(r.own))
	for user, o := range r.own {
		if now.After(o.until) {
			delete(r.own, user)
			continue
		}
		all[user] = o.before
	}
	return all
}

// ended notes connections that the news of a revocation ended.
func (r *revocations) ended(user string, n int, now time.Time) {
	if n == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, there := r.closed[user]; there && now.Sub(c.at) <= closingsKept {
		n += c.n
	} else if !there && len(r.closed) >= r.most {
		return
	}
	r.closed[user] = closings{n, now}
}

// claim returns how many the news has ended lately, once.
func (r *revocations) claim(user string, now time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.closed[user]
	delete(r.closed, user)
	if now.Sub(c.at) > closingsKept {
		return 0
	}
	return c.n
}

// size returns how many users are revoked, and how many entries were too many.
func (r *revocations) size() (users int, missed int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	users = len(r.stored)
	for user := range r.own {
		if _, stored := r.stored[user]; !stored {
			users++
		}
	}
	return users, r.missed
}

func revokedKey(user string) string { return revokedPrefix + wire.EscapeToken(user) }

// revokedUser returns whose key it is; ok is false for a key of something else.
func revokedUser(key string) (user string, ok bool) {
	token, ok := strings.CutPrefix(key, revokedPrefix)
	if !ok {
		return "", false
	}
	user, err := wire.UnescapeToken(token)
	return user, err == nil && wire.CheckUser(user) == nil
}
