package gateway

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// httpAPI serves publishing over HTTP, for who has no NATS client. Unlike a
// connection it needs a token whose list names the topic (`publish`) or the
// user (`send`). No CORS headers: it is not for browsers.
func (g *Service) httpAPI(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/topics/{topic}", func(w http.ResponseWriter, r *http.Request) {
		g.httpPublish(w, r, func(id *auth.Identity, event string) (*publication, error) {
			topic := r.PathValue("topic")
			if err := wire.CheckTopic(topic); err != nil {
				return nil, err
			}
			if !claimsOf(id).Lists(topic) {
				return nil, wire.Errorf(wire.PermissionDenied, "the token's claim `publish` does not name this topic")
			}
			if err := g.authorizer.AuthorizeMessage(r.Context(), id, topic); err != nil {
				return nil, err
			}
			subject, err := g.cfg.Namespace.Topic(topic)
			return &publication{subject: subject, event: event, user: id.User}, err
		})
	})
	mux.HandleFunc("POST /v1/users/{user}", func(w http.ResponseWriter, r *http.Request) {
		g.httpPublish(w, r, func(id *auth.Identity, event string) (*publication, error) {
			user, topic := r.PathValue("user"), r.URL.Query().Get("topic")
			if err := wire.CheckUser(user); err != nil {
				return nil, err
			}
			if topic != "" {
				if err := wire.CheckTopic(topic); err != nil {
					return nil, err
				}
			}
			if !claimsOf(id).MaySend(user) {
				return nil, wire.Errorf(wire.PermissionDenied, "the token's claim `send` does not name this user")
			}
			subject, err := g.cfg.Namespace.User(user)
			return &publication{subject: subject, event: event, user: id.User, topic: topic}, err
		})
	})
}

func (g *Service) httpPublish(w http.ResponseWriter, r *http.Request, prepare func(*auth.Identity, string) (*publication, error)) {
	answer := []byte(`{}`)
	err := func() error {
		token, ok := bearer(r)
		if !ok {
			return wire.Errorf(wire.Unauthenticated, "Authorization: Bearer <JWT> is required")
		}
		if !g.revocations.ready() {
			return unread()
		}
		id, err := g.authenticate(r.Context(), auth.Credentials{Token: token})
		if err != nil {
			return err
		}
		if id.Anonymous {
			return wire.Errorf(wire.Unauthenticated, "Authorization: Bearer <JWT> is required")
		}
		event := r.URL.Query().Get("event")
		if event == "" {
			event = wire.DefaultEvent
		}
		if err := wire.CheckEvent(event); err != nil {
			return err
		}
		if key := r.Header.Get("Idempotency-Key"); key != "" {
			if err := wire.CheckKey(key); err != nil {
				return err
			}
		}
		p, err := prepare(id, event)
		if err != nil {
			return err
		}
		limit := g.cfg.Limits.PayloadBytes
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			return (&wire.Error{Code: wire.ResourceExhausted, Message: "body over the payload limit", RetryAfter: wire.Never}).With("limit", limit)
		case err != nil:
			return wire.InvalidField("body", "could not be read to its end")
		case len(body) > 0 && !wire.ValidJSON(body):
			return wire.InvalidField("body", "JSON in UTF-8")
		case len(body) > 0:
			p.data = body
		}
		if !g.link.up() {
			return unavailable("NATS is away: nothing was published")
		}
		ctx := bus.Extract(r.Context(), map[string][]string{
			wire.HeaderTrace: r.Header.Values(wire.HeaderTrace), wire.HeaderTraceState: r.Header.Values(wire.HeaderTraceState),
		})
		topic := r.PathValue("topic")
		set := g.rules.Current()
		rule := set.Topic(topic)
		if topic != "" && rule != nil {
			if err := fits(rule, p.data); err != nil {
				return err
			}
			count := g.top.counts.of(topic)
			if err := g.admit(set, rule, topic, count, len(p.data)); err != nil {
				return err
			}
			by := &taker{id: id, address: g.proxies.ClientAddress(r)}
			if err := g.spend(r.Context(), by, set, rule.PublishRate, topic, r.Header.Get("Idempotency-Key")); err != nil {
				return err
			}
			g.wasPublished(count, len(p.data))
		}
		if topic == "" || rule == nil || rule.Replay == nil {
			return g.publish(ctx, p)
		}
		type outcome struct {
			ack streams.Ack
			err *wire.Error
		}
		stored := make(chan outcome, 1)
		refused := g.storePublication(ctx, p, topic, r.Header.Get("Idempotency-Key"), func(ack streams.Ack, err *wire.Error) {
			stored <- outcome{ack, err}
		})
		if refused != nil {
			return refused
		}
		is := <-stored // always answered: the wait for JetStream has an end
		if is.err != nil {
			return is.err
		}
		answer = append(appendStored([]byte{'{'}, is.ack), '}')
		return nil
	}()
	w.Header().Set("Content-Type", "application/json")
	if err == nil {
		w.Write(answer)
		return
	}
	e := wire.AsError(err)
	status := e.Code.HTTPStatus()
	if e.Message == "body over the payload limit" {
		status = http.StatusRequestEntityTooLarge
	}
	if ms, never, retries := e.RetryAfterMs(); retries && !never && (status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable) {
		w.Header().Set("Retry-After", seconds(time.Duration(ms)*time.Millisecond))
	}
	w.WriteHeader(status)
	w.Write(append(wire.AppendError([]byte(`{"error":`), e), '}'))
}
