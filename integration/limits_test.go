package integration

import (
	"net/http"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// What is over a limit of connections is refused with the status or close code
// that tells a client when to come again; a place that becomes free is taken.
func TestConnectionLimitsRefuseWithACodeAndFreePlacesAreTaken(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	tests := []struct {
		name, env string
		status    int            // before the upgrade
		close     wire.CloseCode // after it
	}{
		{"of the gateway", "FAIRLEAD_LIMIT_CONNECTIONS=2", http.StatusServiceUnavailable, 0},
		{"of an address", "FAIRLEAD_LIMIT_CONNECTIONS_PER_ADDRESS=2", http.StatusTooManyRequests, 0},
		{"of a user", "FAIRLEAD_LIMIT_CONNECTIONS_PER_USER=2", 0, wire.CloseTooMany},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := startGateway(t, server.ClientURL(), test.env)
			o := client.Options{Token: token("ann", nil)}
			first := dial(t, g.ws(), o)
			dial(t, g.ws(), o)
			o.NoHello = true
			third, err := tryDial(t, g.ws(), o)
			if test.status != 0 {
				e := wire.AsError(err)
				if err == nil || e.Details["status"] != test.status || e.RetryAfter < time.Second {
					t.Errorf("the third: got %v (retry after %s), want %d with Retry-After", err, e.RetryAfter, test.status)
				}
			} else {
				must(t, err)
				if _, err := third.Hello(within(t), o.Token, "", ""); errorText(err) != "RESOURCE_EXHAUSTED" {
					t.Errorf("the third's hello: got %v, want RESOURCE_EXHAUSTED", err)
				}
				<-third.Done()
				if got := third.CloseError(); got.Code != test.close {
					t.Errorf("the third: got %v, want close %d", got, test.close)
				}
				dial(t, g.ws(), client.Options{Token: token("bob", nil)}) // others are not concerned
			}
			first.Close(wire.CloseNormal)
			o.NoHello = false
			eventually(t, "the free place is taken", func() (any, bool) {
				c, err := tryDial(t, g.ws(), o)
				return err, c != nil
			})
		})
	}
}

// A token counts until it expires, unless the client brings a newer one.
func TestExpiredTokensEndTheConnectionUnlessRefreshed(t *testing.T) {
	t.Parallel()
	s := newStack(t, 1)
	brief := func(user string) string {
		return signed(map[string]any{"sub": user, "exp": time.Now().Add(2 * time.Second).Unix()})
	}
	stays := dial(t, s.url(0), client.Options{Token: brief("stays")})
	goes := dial(t, s.url(0), client.Options{Token: brief("goes")})
	_, err := goes.Refresh(within(t), token("another", nil))
	if got := errorText(err); got != "PERMISSION_DENIED" {
		t.Errorf("refresh with another user's token: got %v, want PERMISSION_DENIED", err)
	}
	_, err = stays.Refresh(within(t), token("stays", nil))
	must(t, err)
	receive(t, goes.Done())
	if got := goes.CloseError(); got.Code != wire.CloseUnauthenticated {
		t.Errorf("who did not refresh: got %v, want close 4401", got)
	}
	room := subscribe(t, stays, "token.room")
	publish(t, stays, "token.room", `1`)
	expect(t, room, "stays", `1`)

	for name, jwt := range map[string]string{
		"expired": signed(map[string]any{"sub": "ann", "exp": time.Now().Add(-time.Minute).Unix()}),
		"no exp":  signed(map[string]any{"sub": "ann"}),
		"no sub":  signed(map[string]any{"exp": time.Now().Add(time.Hour).Unix()}),
		"anon-":   token("anon-0123456789abcdef", nil),
		"none":    encode64([]byte(`{"alg":"none"}`)) + "." + encode64([]byte(`{"sub":"ann","exp":99999999999}`)) + ".",
		"altered": token("ann", nil) + "x",
		"nothing": "",
	} {
		_, err := tryDial(t, s.url(0), client.Options{Token: jwt})
		if got := errorText(err); got != "UNAUTHENTICATED" {
			t.Errorf("%s: got %v, want UNAUTHENTICATED", name, err)
		}
	}
}

// An anonymous user keeps its identity with the session it was given.
func TestAnonymousUsersKeepTheirIdentityOverReconnects(t *testing.T) {
	t.Parallel()
	g, _ := startDev(t)
	first := dial(t, g.ws(), client.Options{}).Welcome()
	again := dial(t, g.ws(), client.Options{Session: first.Session}).Welcome()
	other := dial(t, g.ws(), client.Options{}).Welcome()
	if again.User != first.User || again.Conn == first.Conn || again.Session != first.Session {
		t.Errorf("with its session: got %+v after %+v", again, first)
	}
	if other.User == first.User || other.Session == first.Session {
		t.Errorf("without a session: got %+v, want another user than %+v", other, first)
	}
}
