package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// SubCmd prints the messages of topics: for people on a terminal, one JSON
// object per line elsewhere.
type SubCmd struct {
	Topics []string `arg:"" name:"topic" help:"Topics, or patterns where the rules allow them."`

	Count int  `placeholder:"N" help:"Leave after so many messages."`
	Raw   bool `help:"Print payloads alone, one per line."`
	JSON  bool `name:"json" help:"Print JSON lines on a terminal too."`
	Last  int  `placeholder:"N" help:"Begin with so many earlier messages of each topic."`
	NATS  bool `name:"nats" help:"Listen on the bus (FAIRLEAD_NATS_URL) as a worker would, not through a gateway."`

	socketFlags `embed:"" group:"Gateway"`
}

// Run prints until it is interrupted, the count is reached or the connection ends.
func (c *SubCmd) Run(ctx context.Context, env *Env) error {
	if c.Count < 0 || c.Last < 0 {
		return usage(errors.New("--count and --last are not negative"))
	}
	p := &printer{env: env, raw: c.Raw, lines: c.JSON || !onTerminal(env.Stdout)}
	if c.NATS {
		return stopped(ctx, c.onBus(ctx, env, p))
	}
	conn, err := c.dial(ctx, env)
	if err != nil {
		return stopped(ctx, err)
	}
	defer quiet(conn)
	got := make(chan client.Message, 256)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, topic := range c.Topics {
		_, err := conn.Subscribe(ctx, topic, client.SubscribeOptions{Last: c.Last, OnMessage: func(m client.Message) {
			select {
			case got <- m:
			case <-ctx.Done():
			}
		}})
		if err != nil {
			return stopped(ctx, fmt.Errorf("%w (%s)", err, topic))
		}
	}
	fmt.Fprintf(env.Stderr, "subscribed as %s\n", conn.Welcome().User)
	for n := 0; c.Count == 0 || n < c.Count; n++ {
		select {
		case m := <-got:
			if err := p.print(m); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		case <-conn.Done():
			return wire.Errorf(wire.Unavailable, "%v", conn.CloseError())
		}
	}
	return nil
}

func (c *SubCmd) onBus(ctx context.Context, env *Env, p *printer) error {
	ns := wire.Namespace(env.Namespace)
	nc, err := env.Connect(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	got := make(chan *nats.Msg, 4096)
	for _, topic := range c.Topics {
		if err := wire.CheckPattern(topic); err != nil {
			return err
		}
		subject, err := ns.Topic(topic)
		if err != nil {
			return err
		}
		if _, err := nc.ChanSubscribe(subject, got); err != nil {
			return fmt.Errorf("subscribe %s: %w", subject, err)
		}
	}
	if err := flush(ctx, nc); err != nil {
		return err
	}
	fmt.Fprintln(env.Stderr, "subscribed on the bus")
	for n := 0; c.Count == 0 || n < c.Count; n++ {
		select {
		case m := <-got:
			if err := p.print(fromBus(ns, m)); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// fromBus shows a NATS message as a client would see it.
func fromBus(ns wire.Namespace, m *nats.Msg) client.Message {
	topic, _ := ns.ParseTopic(m.Subject) // subscribed to as a topic
	out := client.Message{Topic: topic, Event: wire.HeaderValue(m.Header, wire.HeaderEvent), From: wire.HeaderValue(m.Header, wire.HeaderUser)}
	if out.Event == "" {
		out.Event = wire.DefaultEvent
	}
	switch {
	case len(m.Data) == 0:
		out.Data = []byte("null")
	case wire.ValidJSON(m.Data):
		out.Data = m.Data
	default:
		out.Binary = m.Data
	}
	return out
}

// printer writes messages in the form that was asked for.
type printer struct {
	env        *Env
	raw, lines bool
}

func (p *printer) print(m client.Message) error {
	var b []byte
	switch {
	case p.raw:
		b = m.Payload()
	case p.lines:
		b = jsonLine(m)
	default:
		b = human(m)
	}
	_, err := p.env.Stdout.Write(append(b[:len(b):len(b)], '\n'))
	return err
}

// human is one line for people. Control characters of others stay quoted: they
// would be commands to the terminal.
func human(m client.Message) []byte {
	b := []byte(time.Now().Format("15:04:05 "))
	if m.Ts > 0 {
		b = []byte(time.UnixMilli(m.Ts).Format("15:04:05 "))
	}
	b = append(append(append(b, m.Topic...), ' '), m.Event...)
	if m.Seq > 0 {
		b = strconv.AppendInt(append(b, " #"...), m.Seq, 10)
	}
	if m.From != "" {
		b = append(strconv.AppendQuoteToGraphic(append(b, " from "...), m.From), ':')
	}
	b = append(b, ' ')
	switch {
	case m.Data != nil && printable(m.Data):
		b = append(b, m.Data...)
	case m.Data != nil:
		b = strconv.AppendQuoteToGraphic(b, string(m.Data))
	case utf8.Valid(m.Binary):
		b = strconv.AppendQuoteToGraphic(b, string(m.Binary))
	default:
		b = fmt.Appendf(b, "(%d bytes, no text)", len(m.Binary))
	}
	return b
}

func printable(b []byte) bool {
	for _, r := range string(b) {
		if !strconv.IsGraphic(r) {
			return false
		}
	}
	return true
}

// jsonLine is the message frame again, on one line and with the payload's bytes.
func jsonLine(m client.Message) []byte {
	b := wire.AppendString([]byte(`{"topic":`), m.Topic)
	b = wire.AppendString(append(b, `,"event":`...), m.Event)
	switch {
	case m.Data != nil:
		b = append(append(b, `,"data":`...), oneLine(m.Data)...)
	case utf8.Valid(m.Binary):
		b = wire.AppendString(append(b, `,"text":`...), string(m.Binary))
	default:
		b = wire.AppendString(append(b, `,"base64":`...), base64.StdEncoding.EncodeToString(m.Binary))
	}
	if m.From != "" {
		b = wire.AppendString(append(b, `,"from":`...), m.From)
	}
	if m.Seq > 0 {
		b = strconv.AppendInt(append(b, `,"seq":`...), m.Seq, 10)
		b = strconv.AppendInt(append(b, `,"prev":`...), m.Prev, 10)
		b = strconv.AppendInt(append(b, `,"ts":`...), m.Ts, 10)
	}
	return append(b, '}')
}

// oneLine turns line breaks, which JSON has only between tokens, into spaces.
func oneLine(data []byte) []byte {
	out := make([]byte, len(data))
	for i, c := range data {
		if c == '\n' || c == '\r' {
			c = ' '
		}
		out[i] = c
	}
	return out
}
