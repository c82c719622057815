package presence

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// replied takes a reply to what was sent for some ask.
func (a *asker) replied(msg *nats.Msg) {
	last := strings.TrimPrefix(msg.Subject, a.inbox)
	if last == "" {
		return
	}
	kind, token := last[0], last[1:]
	now := a.s.now()
	none := len(msg.Data) == 0 && msg.Header.Get("Status") == "503"
	var probed wire.Probed
	if kind == toUser && !none && json.Unmarshal(msg.Data, &probed) != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pending[token]
	switch {
	case p == nil || kind == toConn && p.phase != asking:
		if kind == toConn && !none {
			a.figures.late.Add(1)
		}
	case kind == toCheck:
		a.move(p, p.checked(!none, now), now)
	case kind == toConn && !none:
		a.end(p, msg, nil)
	case none:
		if kind == toConn {
			a.recent.gone(p.user, p.conn)
		}
		a.move(p, p.gone(kind == toConn, now, a.nc.ConnectedClusterName() != ""), now)
	default:
		a.move(p, p.probed(probed.Connections, now), now)
	}
}

// due looks at an ask whose time has come.
func (a *asker) due(p *pendingAsk) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.halted || a.pending[p.token] != p {
		return
	}
	now := a.s.now()
	a.move(p, p.over(now), now)
}

// end answers an ask, with a client's or gateway's answer or with an error, and
// forgets it; mu is held.
func (a *asker) end(p *pendingAsk, answer *nats.Msg, err *wire.Error) {
	p.timer.Stop()
	delete(a.pending, p.token)
	a.bytes -= len(p.data)
	f := &a.figures
	result, count := "ok", &f.answered
	var code wire.Code
	if err != nil {
		code = err.Code
	} else {
		code = wire.Code(wire.HeaderValue(answer.Header, wire.HeaderErrorCode))
	}
	switch {
	case code == wire.DeadlineExceeded:
		result, count = "timeout", &f.timeouts
	case err != nil && code == wire.NotFound:
		result, count = "offline", &f.offline
	case code != "":
		result, count = "error", &f.failed
	}
	count.Add(1)
	if f.duration != nil {
		f.duration.Record(context.Background(), a.s.now().Sub(p.since).Seconds(), metric.WithAttributes(attribute.String("result", result)))
	}
	a.respond(p.reply, answer, err)
	if len(a.pending) == 0 && a.idle != nil {
		close(a.idle)
		a.idle = nil
	}
}

// respond publishes an answer: another's byte for byte, or an error.
func (a *asker) respond(reply string, answer *nats.Msg, err *wire.Error) {
	msg := &nats.Msg{Subject: reply}
	if err != nil {
		msg.Header = nats.Header{}
		wire.ErrorHeader(msg.Header, err)
		msg.Data = wire.AppendErrorBody(nil, err)
	} else {
		msg.Data = answer.Data
		for _, name := range [...]string{wire.HeaderErrorCode, wire.HeaderError, wire.HeaderClient} {
			if v := wire.HeaderValue(answer.Header, name); v != "" {
				if msg.Header == nil {
					msg.Header = nats.Header{}
				}
				msg.Header[name] = []string{v}
			}
		}
	}
	if a.nc.PublishMsg(msg) != nil {
		a.s.metrics.publishErrors.Add(1)
	}
}
