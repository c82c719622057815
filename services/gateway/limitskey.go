package gateway

import (
	"net/netip"
	"strings"

	"github.com/fairlead-io/fairlead/internal/limits"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// taker is whose operation takes from a limit.
type taker struct {
	conn    *connection    // nil: it came over HTTP
	id      *auth.Identity // nil before hello
	address netip.Addr
}

func (c *connection) taker() *taker {
	return &taker{conn: c, id: c.identity.Load(), address: c.address}
}

// hurries notes that it comes too early, again.
func (t *taker) hurries() {
	if t.conn != nil {
		t.conn.hurries(leastBreath)
	}
}

// ask is what the taker wants of a limit, false where the rule has none. name is
// what the operation is about, its topic or method; given is the key that its
// request has, "" for none.
func (t *taker) ask(set *rules.Set, take rules.Take, name, given string) (limits.Ask, bool) {
	limit := set.Limit(take.Limit)
	if limit == nil { // there is none, and the reader of the rules refuses an unknown one
		return limits.Ask{}, false
	}
	return limits.Ask{Limit: limit, Key: t.key(limit, name, given), Cost: int64(take.Cost)}, true
}

// key returns whose bucket of a limit an operation takes from. It stands as an
// operator would write it.
func (t *taker) key(limit *rules.Limit, name, given string) string {
	switch {
	case limit.Key == rules.KeyTopic:
		return name
	case limit.Key == rules.KeyGiven && given != "":
		return given
	case limit.Key == rules.KeyConnection && t.conn != nil:
		return t.conn.id
	case limit.Key == rules.KeyAddress || t.id == nil || t.id.Anonymous:
		return addressKey(t.address)
	}
	return userKey(t.id.User)
}

const (
	noAddress  = "unknown"
	userPrefix = "user:"
)

func addressKey(address netip.Addr) string {
	if !address.IsValid() {
		return noAddress
	}
	return LimitKey(address).String()
}

// userKey is the user's id. One that looks like an address, or like such an id
// with the prefix, has a prefix, so that nobody's bucket is an address's.
func userKey(user string) string {
	bare := user
	for strings.HasPrefix(bare, userPrefix) {
		bare = bare[len(userPrefix):]
	}
	if bare != noAddress {
		if _, err := netip.ParseAddr(bare); err != nil {
			return user
		}
	}
	return userPrefix + user
}
