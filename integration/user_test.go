package integration

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// token signs a JWT for a user; claims become its member `fairlead`.
func token(user string, claims map[string]any) string {
	now := time.Now()
	c := map[string]any{"sub": user, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	if claims != nil {
		c["fairlead"] = claims
	}
	return signed(c)
}

// signed is the JWT of any claims.
func signed(claims map[string]any) string {
	body, err := json.Marshal(claims)
	if err != nil {
		panic(err) // the tests' own maps
	}
	text := encode64([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode64(body)
	mac := hmac.New(sha256.New, []byte(secret()))
	mac.Write([]byte(text))
	return text + "." + encode64(mac.Sum(nil))
}

func encode64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// dial connects a client, which is dropped when the test ends.
func dial(t *testing.T, url string, o client.Options) *client.Client {
	t.Helper()
	c, err := tryDial(t, url, o)
	if err != nil {
		t.Fatalf("connect to %s: %v", url, err)
	}
	return c
}

// tryDial is dial for connections that may be refused.
func tryDial(t *testing.T, url string, o client.Options) (*client.Client, error) {
	if o.Subprotocols == nil {
		o.Batch = true
	}
	o.RequestTimeout = patience
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := client.Dial(ctx, url, o)
	if err == nil {
		t.Cleanup(func() { c.Abort(); c.Wait() })
	}
	return c, err
}

// subscribe subscribes and returns when the subscription is live.
func subscribe(t *testing.T, c *client.Client, topic string) *client.Subscription {
	t.Helper()
	s, err := c.Subscribe(within(t), topic, client.SubscribeOptions{})
	if err != nil {
		t.Fatalf("subscribe %s: %v", topic, err)
	}
	return s
}

// publish publishes raw JSON and waits for the acknowledgement.
func publish(t *testing.T, c *client.Client, topic, data string) {
	t.Helper()
	if _, err := c.Publish(within(t), topic, "", json.RawMessage(data), client.PublishOptions{}); err != nil {
		t.Fatalf("publish to %s: %v", topic, err)
	}
}

// next returns the next message of a subscription.
func next(t *testing.T, s *client.Subscription) client.Message {
	t.Helper()
	m, err := s.Next(within(t))
	if err != nil {
		t.Fatalf("next message of %s: %v", s.Topic(), err)
	}
	return m
}

// expect compares the next message with what was published.
func expect(t *testing.T, s *client.Subscription, from, data string) {
	t.Helper()
	m := next(t, s)
	if existing() && m.From == "" {
		m.From = from // its rules decide whether messages show it
	}
	if m.From != from || string(m.Payload()) != data {
		t.Fatalf("message on %s: got %s from %q, want %s from %q", s.Topic(), m.Payload(), m.From, data, from)
	}
}

// answerWith serves requests of the server with one answer.
func answerWith(data string) func(context.Context, client.Request) (any, error) {
	return func(context.Context, client.Request) (any, error) { return json.RawMessage(data), nil }
}

// errorText is an error's code and what it says of the outcome.
func errorText(err error) string {
	e := wire.AsErrorOrNil(err)
	if e == nil {
		return "no error"
	}
	text := string(e.Code)
	if outcome, ok := e.Details["outcome"].(string); ok {
		text += " " + outcome
	}
	return text
}

// The answer to hello precedes whatever is sent to its user.
func TestHelloIsAnsweredFirst(t *testing.T) {
	t.Parallel()
	s := anyStack(t, 1)
	nc := s.worker()
	stop, flooding := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(flooding)
		for {
			select {
			case <-stop:
				return
			default:
				_ = nc.Publish("fl.user.ann", []byte(`"hi"`))
				_ = nc.Flush()
			}
		}
	}()
	defer func() { close(stop); <-flooding }()
	for range 20 {
		c := dial(t, s.url(0), client.Options{Token: token("ann", nil), Tap: true})
		if first := receive(t, c.Frames()); !strings.HasPrefix(string(first.Raw), `{"id":`) {
			t.Fatalf("the first frame is %s, want the answer to hello", first.Raw)
		}
		c.Abort()
	}
}
