package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// aged is a token that was issued some time ago, or will be.
func aged(user string, age time.Duration) string {
	now := time.Now()
	return signed(map[string]any{"sub": user, "iat": now.Add(-age).Unix(), "exp": now.Add(time.Hour).Unix()})
}

// ageless is a token that does not say when it was issued.
func ageless(user string) string {
	return signed(map[string]any{"sub": user, "exp": time.Now().Add(time.Hour).Unix()})
}

// revoking is the body of a revoke of what is older than an age.
func revoking(age time.Duration) string {
	return fmt.Sprintf(`{"action":"revoke","before":%d}`, time.Now().Add(-age).UnixMilli())
}

// banned fails the test unless a token is refused, in hello and in the upgrade.
func banned(t *testing.T, url, token string) {
	t.Helper()
	_, err := tryDial(t, url, client.Options{Token: token})
	if e := wire.AsError(err); err == nil || e.Code != wire.Unauthenticated || e.Details["reason"] != "revoked" {
		t.Errorf("hello at %s with a revoked token: got %v %v, want UNAUTHENTICATED for that reason", url, err, e.Details)
	}
	_, err = tryDial(t, url, client.Options{Header: http.Header{"Authorization": {"Bearer " + token}}})
	if err == nil || !strings.Contains(err.Error(), "401") && wire.AsError(err).Code != wire.Unauthenticated {
		t.Errorf("upgrade at %s with a revoked token: got %v, want 401", url, err)
	}
}

// welcome fails the test unless a token is taken.
func welcome(t *testing.T, url, token string) *client.Client {
	t.Helper()
	return dial(t, url, client.Options{Token: token})
}

// Older tokens are refused from a revoke on, on every gateway, on those that
// start later, and after NATS and the gateways were started again.
func TestRevokedTokensAreRefusedFromThenOn(t *testing.T) {
	t.Parallel()
	const gateways = 3
	server := natsdev.Test(t)
	s := stackOn(t, server.ClientURL(), gateways)
	worker := s.worker()
	old, plain, fresh := aged("ann", time.Minute), ageless("ann"), aged("ann", 0)
	var gone, stay []*client.Client
	for i := range gateways {
		gone = append(gone, welcome(t, s.url(i), old))
		stay = append(stay, welcome(t, s.url(i), fresh))
	}
	gone = append(gone, welcome(t, s.url(0), plain))
	bob := welcome(t, s.url(1), aged("bob", time.Minute))

	ordered(t, worker, "user.ann", revoking(10*time.Second), gateways, len(gone))
	for _, c := range gone {
		left(t, c, wire.CloseForbidden, "the token was revoked")
	}
	everywhere := func() {
		t.Helper()
		for i := range s.urls {
			banned(t, s.url(i), old)
			banned(t, s.url(i), plain)
			welcome(t, s.url(i), fresh).Close(wire.CloseNormal)
		}
	}
	everywhere()
	for _, c := range append(stay, bob) {
		publish(t, c, unique("stays"), `1`)
	}
	// A revoke of less takes nothing back, one of more counts.
	ordered(t, worker, "user.ann", revoking(30*time.Second), gateways, 0)
	everywhere()
	if _, err := stay[0].Refresh(within(t), old); wire.AsError(err).Code != wire.Unauthenticated {
		t.Errorf("refresh with the old token: got %v, want UNAUTHENTICATED", err)
	}
	publish(t, stay[0], unique("stays"), `1`)

	s.add() // late
	everywhere()
	server.Shutdown()
	must(t, server.Restart())
	for _, g := range s.gateways {
		g.ready()
	}
	everywhere()
	for _, g := range s.gateways {
		g.kill()
	}
	s.urls, s.gateways = nil, nil
	s.add()
	everywhere()
}

// Without a time it is the gateway's clock that counts.
func TestRevokeCountsFromNowOn(t *testing.T) {
	t.Parallel()
	s := newStack(t, 2)
	worker := s.worker()
	c := welcome(t, s.url(0), aged("ann", 2*time.Second))
	ordered(t, worker, "user.ann", `{"action":"revoke","reason":"stolen"}`, 2, 1)
	left(t, c, wire.CloseForbidden, "")
	banned(t, s.url(1), aged("ann", 2*time.Second))
	welcome(t, s.url(0), aged("ann", -3*time.Second)) // an issuer whose clock is ahead
	welcome(t, s.url(0), aged("ann2", time.Minute))
	welcome(t, s.url(0), aged("an", time.Minute))
}

// Who is anonymous has no token that could be newer: the session does not come
// back, another one may.
func TestAnAnonymousUserCanBeRevoked(t *testing.T) {
	t.Parallel()
	g, natsURL := startDev(t)
	worker := connect(t, natsURL)
	c := dial(t, g.ws(), client.Options{})
	session := c.Welcome().Session
	ordered(t, worker, "user."+c.Welcome().User, `{"action":"revoke"}`, 1, 1)
	left(t, c, wire.CloseForbidden, "the token was revoked")
	_, err := tryDial(t, g.ws(), client.Options{Session: session})
	if e := wire.AsError(err); err == nil || e.Code != wire.Unauthenticated || e.Details["reason"] != "revoked" {
		t.Errorf("the session came back: %v", err)
	}
	dial(t, g.ws(), client.Options{})
}

// A gateway that NATS could not reach when its user was revoked closes the
// connections when it hears of it.
func TestAGatewayThatWasCutOffHearsOfARevocation(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	addr := strings.TrimPrefix(server.ClientURL(), "nats://")
	way := startLink(t, to(addr), nil)
	s := stackOn(t, server.ClientURL(), 1)
	away := startGateway(t, "nats://"+way.addr(), "FAIRLEAD_TOPICS_FILE="+rulesFile(t, openRules))
	worker := s.worker()
	old := aged("ann", time.Minute)
	c, other := welcome(t, away.ws(), old), welcome(t, away.ws(), aged("bob", time.Minute))
	events := make(chan string, 8)
	other.OnSystem(func(e client.SystemEvent) { events <- e.Event })
	way.cut()
	if got := receive(t, events); got != "degraded" {
		t.Fatalf("got %s, want degraded", got)
	}
	ordered(t, worker, "user.ann", revoking(10*time.Second), 1, 0)
	select {
	case <-c.Done():
		t.Fatalf("closed with %v by a gateway that can't have heard of it", c.CloseError())
	default:
	}
	way.restore()
	left(t, c, wire.CloseForbidden, "the token was revoked")
	away.ready()
	banned(t, away.ws(), old)
	publish(t, other, unique("stays"), `1`)
}

// It is not known whose tokens count as long as the bucket can't be read: then
// nobody is let in.
func TestNobodyIsLetInBeforeRevocationsAreRead(t *testing.T) {
	t.Parallel()
	nodes := natsdev.Cluster(t, 3)
	env := []string{"FAIRLEAD_NATS_REPLICAS=3", "FAIRLEAD_TOPICS_FILE=" + rulesFile(t, openRules)}
	first := startGateway(t, nodes[0].ClientURL(), env...)
	worker := connect(t, nodes[0].ClientURL())
	old := aged("ann", time.Minute)
	ordered(t, worker, "user.ann", revoking(10*time.Second), 1, 0)
	banned(t, first.ws(), old)
	nodes[1].Shutdown()
	nodes[2].Shutdown()
	// Without a majority JetStream says nothing; NATS itself goes on. What can't be
	// stored counts on the gateway that heard it.
	carol := welcome(t, first.ws(), aged("carol", time.Minute))
	answers := listen(t, worker, worker.NewInbox())
	must(t, worker.PublishRequest("fl.control.user.carol", answers.Subject, []byte(revoking(10*time.Second))))
	left(t, carol, wire.CloseForbidden, "the token was revoked")
	banned(t, first.ws(), aged("carol", time.Minute))
	late := launchGateway(t, nodes[0].ClientURL(), env...)
	eventually(t, "it says that it has not read the revocations", func() (any, bool) {
		for _, token := range []string{old, aged("bob", 0)} {
			_, err := tryDial(t, late.ws(), client.Options{Token: token})
			if e := wire.AsError(err); err == nil || e.Code != wire.Unavailable {
				t.Fatalf("hello before they were read: %v, want UNAVAILABLE", err)
			} else if !strings.Contains(e.Message, "revoked") {
				return err, false // the connection to NATS is not there yet
			}
		}
		return nil, true
	})
	if status, body := get(t, late.http("/readyz")); status == http.StatusOK {
		t.Errorf("/readyz: %d %s", status, body)
	}
	if m := hear(t, answers); m.Header.Get("Nats-Service-Error-Code") != "UNAVAILABLE" {
		t.Errorf("the answer to a revoke that can't be stored: %v %s, want UNAVAILABLE", m.Header, m.Data)
	}
	must(t, nodes[1].Restart())
	must(t, nodes[2].Restart())
	late.ready()
	banned(t, late.ws(), old)
	welcome(t, late.ws(), aged("bob", 0))
	// What was said without JetStream is stored when it is back.
	third := startGateway(t, nodes[0].ClientURL(), env...)
	eventually(t, "a gateway that never heard of it refuses too", func() (any, bool) {
		_, err := tryDial(t, third.ws(), client.Options{Token: aged("carol", time.Minute)})
		return err, err != nil && wire.AsError(err).Code == wire.Unauthenticated
	})
}

// What is revoked ends with the tokens that it is about, and stands beside the
// rules without touching them.
func TestRevocationsEndByThemselves(t *testing.T) {
	t.Parallel()
	s := newStack(t, 1)
	worker := s.worker()
	ordered(t, worker, "user.a=2Eb", revoking(0), 1, 0)
	js, err := worker.JetStream()
	must(t, err)
	bucket, err := js.KeyValue("fl_config")
	must(t, err)
	if _, err := bucket.Get("rules"); err != nil {
		t.Errorf("the rules: %v", err)
	}
	raw, err := js.GetLastMsg("KV_fl_config", "$KV.fl_config.revoked.a=2Eb")
	must(t, err)
	if ttl := raw.Header.Get("Nats-TTL"); ttl != "86520" { // 24 h, the longest life of a token, and two minutes
		t.Errorf("its TTL is %q s, want a day and a little", ttl)
	}
	if !strings.HasPrefix(string(raw.Data), `{"before":17`) {
		t.Errorf("its value is %s", raw.Data)
	}
	// An operator takes it back by deleting the key.
	old := aged("a.b", time.Minute)
	banned(t, s.url(0), old)
	must(t, bucket.Delete("revoked.a=2Eb"))
	eventually(t, "the token counts again", func() (any, bool) {
		c, err := tryDial(t, s.url(0), client.Options{Token: old})
		if err == nil {
			c.Close(wire.CloseNormal)
		}
		return err, err == nil
	})
	// Somebody else's writing revokes too, and what can't be read is taken for the strictest.
	for user, value := range map[string]string{"carol": fmt.Sprintf(`{"before":%d}`, time.Now().UnixMilli()), "dave": "garbage", "erin": `{"before":"x"}`} {
		c := welcome(t, s.url(0), aged(user, time.Minute))
		_, err := bucket.Put("revoked."+user, []byte(value))
		must(t, err)
		left(t, c, wire.CloseForbidden, "the token was revoked")
		banned(t, s.url(0), aged(user, time.Minute))
	}
	for _, key := range []string{"revoked.x.y", "revoked.=zz", "revokedx"} {
		_, err := bucket.Put(key, []byte(`{"before":1}`))
		must(t, err)
	}
	welcome(t, s.url(0), aged("x", time.Minute))
}
