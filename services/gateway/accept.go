package gateway

import (
	"crypto/rand"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
	"github.com/fairlead-io/fairlead/services/gateway/outbox"
)

// Subprotocol is the WebSocket subprotocol of protocol version 1.
const Subprotocol = "fairlead.v1"

// accept answers GET /ws: it upgrades a request that may come in, and starts
// the connection's reader. What it refuses, it refuses before the upgrade.
func (g *Service) accept(w http.ResponseWriter, r *http.Request) {
	if g.draining.Load() {
		g.refuseDraining(w)
		return
	}
	if status, text := webSocket(r); status != 0 {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Sec-WebSocket-Version", webSocketVersion)
		g.refuse(w, status, text, 0)
		return
	}
	done := g.handshake.enter(r.Context())
	if done == nil {
		g.refuse(w, http.StatusServiceUnavailable, "too many connections are being opened", time.Second)
		return
	}
	defer done()
	if !speaks(r) {
		g.refuse(w, http.StatusBadRequest, "unknown subprotocol: known is "+Subprotocol, 0)
		return
	}
	cookie := g.cookie(r)
	if err := g.origins.Check(r, cookie != ""); err != nil {
		g.refuse(w, http.StatusForbidden, err.Error(), 0)
		return
	}
	address := g.proxies.ClientAddress(r)
	key := LimitKey(address)
	limits := g.cfg.Limits
	switch g.connections.reserve(key, limits.Connections, limits.ConnectionsPerAddress) {
	case closing:
		g.refuseDraining(w)
		return
	case tooMany:
		g.metrics.limited.Add(1)
		g.refuse(w, http.StatusServiceUnavailable, "this gateway has as many connections as it may", time.Second)
		return
	case tooManyOfAddress:
		g.metrics.limited.Add(1)
		g.refuse(w, http.StatusTooManyRequests, "too many connections from this address", time.Second)
		return
	}
	c := &connection{g: g, id: newID(), address: address, opened: time.Now(), request: requestID(r), paging: make(chan struct{}, 1)}
	if token := credential(r, cookie); token != "" {
		id, err := g.authenticate(r.Context(), auth.Credentials{Token: token})
		if err != nil {
			g.connections.cancel(key)
			g.metrics.unauthenticated.Add(1)
			e := wire.AsError(err)
			ms, _, _ := e.RetryAfterMs()
			g.refuse(w, e.Code.HTTPStatus(), e.Message, time.Duration(ms)*time.Millisecond)
			return
		}
		if !g.connections.admitUser(id.User, limits.ConnectionsPerUser) {
			g.connections.cancel(key)
			g.metrics.limited.Add(1)
			g.refuse(w, http.StatusTooManyRequests, "too many connections of this user", time.Second)
			return
		}
		c.identity.Store(id)
	}
	if err := c.admitConnect(r.Context()); err != nil { // last: what is refused for another reason takes nothing
		g.connections.abandon(c.user(), key)
		ms, never, _ := err.RetryAfterMs()
		if never {
			ms = 0
		}
		g.refuse(w, err.Code.HTTPStatus(), err.Message, time.Duration(ms)*time.Millisecond)
		return
	}
	out, err := g.outbox.Upgrade(w, r, outbox.UpgradeOptions{Subprotocols: []string{Subprotocol}, Owner: c})
	if err != nil {
		g.metrics.refused.Add(1)
		g.connections.abandon(c.user(), key)
		return
	}
	c.out = out
	g.metrics.accepted.Add(1)
	g.connections.add(c)
	go c.run()
}

// speaks reports whether the client offers no subprotocol or a known one.
func speaks(r *http.Request) bool {
	offered := r.Header.Values("Sec-WebSocket-Protocol")
	if len(offered) == 0 {
		return true
	}
	for _, line := range offered {
		for p := range strings.SplitSeq(line, ",") {
			if strings.TrimSpace(p) == Subprotocol {
				return true
			}
		}
	}
	return false
}

// refuse answers a request that is not upgraded.
func (g *Service) refuse(w http.ResponseWriter, status int, text string, retryAfter time.Duration) {
	g.metrics.refused.Add(1)
	if retryAfter > 0 {
		w.Header().Set("Retry-After", seconds(retryAfter))
	}
	http.Error(w, text, status)
}

// seconds is a wait as `Retry-After` has it, rounded up.
func seconds(wait time.Duration) string {
	return strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10)
}

func (g *Service) refuseDraining(w http.ResponseWriter) {
	g.refuse(w, http.StatusServiceUnavailable, "draining: connect to another gateway", time.Second)
}

// cookie returns the token that the configured cookie holds.
func (g *Service) cookie(r *http.Request) string {
	if g.cfg.Auth.Cookie == "" {
		return ""
	}
	c, err := r.Cookie(g.cfg.Auth.Cookie)
	if err != nil {
		return ""
	}
	return c.Value
}

// credential returns the token of an upgrade request: its Authorization
// header counts before the cookie.
func credential(r *http.Request, cookie string) string {
	if token, ok := bearer(r); ok {
		return token
	}
	return cookie
}

func bearer(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	return strings.TrimSpace(token), true
}

// requestID returns the request's own id where it is fit for logs and headers,
// else a new one.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if len(id) == 0 || len(id) > 128 {
		return newID()
	}
	for i := 0; i < len(id); i++ {
		if id[i] <= ' ' || id[i] >= 0x7f {
			return newID()
		}
	}
	return id
}

// newID returns 100 random bits that stand in a subject, and in a shell, as
// they are.
func newID() string { return strings.ToLower(rand.Text()[:20]) }
