package gateway

import (
	"context"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// answersMost is how many answers may wait to be published. They are small: what
// a client answers is not among them.
const answersMost = 8 << 10

// answers are what the gateway itself has to say to who asked. They are published
// by a goroutine of their own: a publish waits where the socket takes nothing,
// and behind a shard wait the messages of all its topics.
type answers struct {
	ch      chan *nats.Msg
	dropped atomic.Int64 // for want of room
}

func newAnswers() *answers { return &answers{ch: make(chan *nats.Msg, answersMost)} }

// add takes an answer. It does not block: one too many is dropped, which who
// asked sees as it sees a lost message.
func (as *answers) add(msg *nats.Msg) {
	select {
	case as.ch <- msg:
	default:
		as.dropped.Add(1)
	}
}

// run publishes until ctx is done.
func (as *answers) run(ctx context.Context, publish func(*nats.Msg)) {
	for {
		select {
		case <-ctx.Done():
			return
		case msg := <-as.ch:
			publish(msg)
		}
	}
}

// publishAnswer publishes an answer, and waits where the socket does.
func (g *Service) publishAnswer(msg *nats.Msg) {
	if err := g.requests.PublishMsg(msg); err != nil {
		g.metrics.publishErrors.Add(1)
	}
}

// respond has a request answered, whose reply subject has passed the guard. It
// does not block.
func (g *Service) respond(reply string, data []byte, err *wire.Error) {
	g.answers.add(answerTo(reply, data, err))
}

// respondGone has a request for a connection that is gone answered as NATS does
// where nobody listens, so that the requester turns elsewhere at once. Clients that
// look for that in another place than NATS' own header see an error.
func (g *Service) respondGone(reply string) {
	msg := &nats.Msg{Subject: reply, Header: nats.Header{"Status": {"503"}}}
	wire.ErrorHeader(msg.Header, wire.Errorf(wire.NotFound, "no such connection"))
	g.answers.add(msg)
}

// answerTo makes an answer: data, where there is no error.
func answerTo(reply string, data []byte, err *wire.Error) *nats.Msg {
	msg := &nats.Msg{Subject: reply, Data: data}
	switch {
	case err != nil:
		msg.Header = nats.Header{}
		wire.ErrorHeader(msg.Header, err)
		msg.Data = wire.AppendErrorBody(nil, err)
	case data == nil:
		msg.Data = jsonNull
	}
	return msg
}
