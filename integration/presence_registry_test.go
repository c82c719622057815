package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// lookup asks which connections a user has.
func lookup(t *testing.T, nc *nats.Conn, user string) []wire.PresenceConnection {
	t.Helper()
	body, err := json.Marshal(wire.PresenceUser{User: user})
	must(t, err)
	got, code := svc(t, nc, "lookup", string(body))
	var reply wire.PresenceConnections
	if err := json.Unmarshal([]byte(got), &reply); err != nil || code != "" {
		t.Fatalf("lookup %s: %s %s", user, code, got)
	}
	return reply.Connections
}

// has waits until a user has exactly these connections, the newest first.
func has(t *testing.T, nc *nats.Conn, user string, conns ...string) (found []wire.PresenceConnection) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s has %v", user, conns), func() (any, bool) {
		found = lookup(t, nc, user)
		got := []string{}
		for _, c := range found {
			got = append(got, c.Conn)
		}
		return got, fmt.Sprint(got) == fmt.Sprint(conns)
	})
	return found
}

// The registry knows every connection of a user, wherever it is, and forgets it
// when it ends.
func TestRegistryKnowsConnections(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 2)
	nc := s.worker()
	has(t, nc, "ann")
	before := time.Now().Add(-time.Second).UnixMilli()
	claims := map[string]any{"attributes": map[string]string{"role": "admin", "region": "eu"}}
	phone := dial(t, s.url(0), client.Options{Token: token("ann", claims)})
	found := has(t, nc, "ann", phone.Welcome().Conn)
	if got := found[0]; got.Gateway != phone.Welcome().Gateway || got.Since < before || got.Since > time.Now().UnixMilli() ||
		len(got.Attributes) != 2 || got.Attributes["role"] != "admin" || got.Attributes["region"] != "eu" || got.Order == 0 {
		t.Errorf("got %+v", got)
	}
	desk := s.as(1, "ann")
	has(t, nc, "ann", desk.Welcome().Conn, phone.Welcome().Conn)
	tablet := s.as(0, "ann")
	has(t, nc, "ann", tablet.Welcome().Conn, desk.Welcome().Conn, phone.Welcome().Conn)

	// However one ends, the others stay, and each that is there is told so.
	desk.Close(wire.CloseNormal)
	has(t, nc, "ann", tablet.Welcome().Conn, phone.Welcome().Conn)
	phone.Abort()
	has(t, nc, "ann", tablet.Welcome().Conn)
	if got, _ := svc(t, nc, "online", `{"users":["ann","bob"]}`); got != `{"online":{"ann":true,"bob":false}}` {
		t.Errorf("online: got %s", got)
	}
	tablet.Close(wire.CloseNormal)
	has(t, nc, "ann")
	eventually(t, "nobody is online, on either replica", func() (any, bool) {
		got, _ := svc(t, nc, "online", `{"users":["ann"]}`)
		return got, got == `{"online":{"ann":false}}`
	})
}

// A refresh changes what the registry says of a connection, not which is newest.
func TestRegistryFollowsTheToken(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 1, 1)
	nc := s.worker()
	attributes := func(role string) map[string]any {
		return map[string]any{"attributes": map[string]string{"role": role}}
	}
	first := dial(t, s.url(0), client.Options{Token: token("ann", attributes("guest"))})
	has(t, nc, "ann", first.Welcome().Conn)
	second := s.as(0, "ann")
	was := has(t, nc, "ann", second.Welcome().Conn, first.Welcome().Conn)
	if _, err := first.Refresh(within(t), token("ann", attributes("admin"))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new role", func() (any, bool) {
		got := lookup(t, nc, "ann")
		return got, len(got) == 2 && got[1].Attributes["role"] == "admin" && got[1].Conn == first.Welcome().Conn &&
			got[1].Order == was[1].Order && got[1].Since == was[1].Since
	})
}

// Users without a token are in the registry like any other, and ids of any
// characters are.
func TestRegistryOfUnusualUsers(t *testing.T) {
	t.Parallel()
	s, _ := presenceStack(t, 1, 1)
	nc := s.worker()
	open := s.add("FAIRLEAD_AUTH=anonymous", "FAIRLEAD_ALLOW_ANONYMOUS=true").ws()
	nobody := dial(t, open, client.Options{})
	user := nobody.Welcome().User
	if user == "" {
		t.Fatal("an anonymous user has no id")
	}
	has(t, nc, user, nobody.Welcome().Conn)
	again := dial(t, open, client.Options{Session: nobody.Welcome().Session})
	has(t, nc, user, again.Welcome().Conn, nobody.Welcome().Conn)
	for _, id := range []string{"ann@example.org", "a.b.c", "*", ">", "ü x", "=41", strings.Repeat("z", 128)} {
		c := s.as(0, id)
		has(t, nc, id, c.Welcome().Conn)
		c.Close(wire.CloseNormal)
		has(t, nc, id)
	}
	nobody.Close(wire.CloseNormal)
	again.Close(wire.CloseNormal)
	has(t, nc, user)
}

// Whether many users are there is one question.
func TestOnlineOfMany(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 1)
	nc := s.worker()
	want := map[string]bool{}
	var users []string
	for i := range 1000 {
		user := fmt.Sprintf("u%d", i)
		users = append(users, user)
		want[user] = i < 40
		if i < 40 {
			s.as(i, user)
		}
	}
	body, err := json.Marshal(wire.PresenceUsers{Users: users})
	must(t, err)
	eventually(t, "everybody who is there is seen", func() (any, bool) {
		got, code := svc(t, nc, "online", string(body))
		var reply wire.PresenceOnline
		if err := json.Unmarshal([]byte(got), &reply); err != nil || code != "" {
			t.Fatalf("online: %s %s", code, got)
		}
		wrong := 0
		for user, online := range want {
			if reply.Online[user] != online {
				wrong++
			}
		}
		return wrong, wrong == 0 && len(reply.Online) == 1000
	})
	body, err = json.Marshal(wire.PresenceUsers{Users: append(users, "one more")})
	must(t, err)
	if got, code := svc(t, nc, "online", string(body)); code != "INVALID_ARGUMENT" {
		t.Errorf("1001 users: got %q %.80s", code, got)
	}
}
