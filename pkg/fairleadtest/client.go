package fairleadtest

import (
	"context"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ClientOption says how [Stack.Client] connects: [On] which gateway, [Through]
// which link, [With] which options of the client, and every [Claim].
type ClientOption interface{ option(*dialing) }

type dialing struct {
	url    string
	claims []Claim
	client client.Options
}

type optionFunc func(*dialing)

func (f optionFunc) option(d *dialing) { f(d) }

// On connects to the gateway g rather than the first one.
func On(g *Gateway) ClientOption { return optionFunc(func(d *dialing) { d.url = g.URL() }) }

// Through connects over a link that was made by [Stack.Link].
func Through(l *Link) ClientOption {
	return optionFunc(func(d *dialing) { d.url = "ws://" + l.Addr() + "/ws" })
}

// With sets the client's options. A token that they leave empty is made.
func With(o client.Options) ClientOption { return optionFunc(func(d *dialing) { d.client = o }) }

func (a Attributes) option(d *dialing) { d.claims = append(d.claims, a) }
func (i Info) option(d *dialing)       { d.claims = append(d.claims, i) }
func (c Claims) option(d *dialing)     { d.claims = append(d.claims, c) }

// Client connects user, with a token of its own, to the first gateway unless
// told otherwise, and fails the test when that is refused. The connection is
// closed with the test.
func (s *Stack) Client(user string, o ...ClientOption) *client.Client {
	s.t.Helper()
	d := dialing{url: s.URL()}
	for _, one := range o {
		one.option(&d)
	}
	if d.client.Token == "" {
		d.client.Token = s.Token(user, d.claims...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	c, err := client.Dial(ctx, d.url, d.client)
	if err != nil {
		s.t.Fatalf("fairleadtest: connect %q: %v", user, err)
	}
	s.t.Cleanup(func() {
		c.Abort()
		c.Wait()
	})
	return c
}

// Link returns a new way to the i-th gateway, for the clients that go [Through]
// it. It is closed with the test.
func (s *Stack) Link(i int) *Link {
	s.t.Helper()
	l, err := newLink(s.Gateway(i).clients.Addr(), true)
	if err != nil {
		s.t.Fatalf("fairleadtest: make a link: %v", err)
	}
	s.t.Cleanup(l.close)
	return l
}

// OfTopic matches every frame of a topic: messages, and what is said of it.
func OfTopic(topic string) func(wire.ServerFrame) bool {
	return func(f wire.ServerFrame) bool { return f.Topic == topic }
}
