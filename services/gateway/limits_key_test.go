package gateway

import (
	"net/netip"
	"testing"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

func TestKeysOfLimits(t *testing.T) {
	ann := &auth.Identity{User: "ann"}
	anon := &auth.Identity{User: "anon-x", Anonymous: true}
	home := netip.MustParseAddr("192.0.2.7")
	of := func(key rules.LimitKey, id *auth.Identity, given string) string {
		by := &taker{conn: &connection{id: "c1"}, id: id, address: home}
		return by.key(&rules.Limit{Key: key}, "chat.lobby", given)
	}
	for _, c := range []struct {
		name, got, want string
	}{
		{"user", of(rules.KeyUser, ann, "k"), "ann"},
		{"anonymous user", of(rules.KeyUser, anon, "k"), "192.0.2.7"},
		{"nobody yet", of(rules.KeyUser, nil, ""), "192.0.2.7"},
		{"address", of(rules.KeyAddress, ann, "k"), "192.0.2.7"},
		{"connection", of(rules.KeyConnection, ann, "k"), "c1"},
		{"topic", of(rules.KeyTopic, ann, "k"), "chat.lobby"},
		{"given", of(rules.KeyGiven, ann, "k"), "k"},
		{"given by nobody", of(rules.KeyGiven, ann, ""), "ann"},
		{"connection over HTTP", (&taker{id: ann, address: home}).key(&rules.Limit{Key: rules.KeyConnection}, "t", ""), "ann"},
		{"no address", addressKey(netip.Addr{}), "unknown"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, c.got, c.want)
		}
	}
}

// No user takes from the bucket of an address, and no two from one bucket.
func TestUsersThatLookLikeAddresses(t *testing.T) {
	for user, want := range map[string]string{
		"ann": "ann", "1.2.3": "1.2.3", "user:ann": "user:ann", "user:": "user:", "10.0.0.1:80": "10.0.0.1:80",
		"10.0.0.1": "user:10.0.0.1", "user:10.0.0.1": "user:user:10.0.0.1", "user:user:::1": "user:user:user:::1",
		"::1": "user:::1", "fe80::1%eth0": "user:fe80::1%eth0", "unknown": "user:unknown",
	} {
		if got := userKey(user); got != want {
			t.Errorf("user %q: got the key %q, want %q", user, got, want)
		}
	}
}

// A client owns a whole /64: its addresses share one bucket.
func TestAddressesOfANetworkShareABucket(t *testing.T) {
	of := func(address string) string { return addressKey(netip.MustParseAddr(address)) }
	if a, b := of("2001:db8::1"), of("2001:db8::ffff:1"); a != b {
		t.Errorf("two addresses of a /64 have the buckets %s and %s, want one", a, b)
	}
	if a, b := of("2001:db8::1"), of("2001:db8:0:1::1"); a == b {
		t.Errorf("two networks share the bucket %s", a)
	}
}
