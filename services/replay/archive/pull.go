package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ackPrefix begins the reply subject of a message that a consumer delivers.
// Status messages have none: it is what tells them from a message that somebody
// published without a body and with a header Status. The jetstream package takes
// such a message for the server's word, and would never deliver it.
const ackPrefix = "$JS.ACK."

// pulled is a request for messages, and what has come of it.
type pulled struct {
	nc    *nats.Conn
	sub   *nats.Subscription
	from  chan *nats.Msg
	again chan nats.Status // the connection was lost, and is back
	left  int              // messages that may still come
	ended bool             // none comes any more
	err   error            // why, where that is not as it should be
}

// request asks a consumer for messages: a batch, or what comes while it waits.
func request(js jetstream.JetStream, stream string, bytes int) (*pulled, error) {
	body, err := json.Marshal(struct {
		Batch     int           `json:"batch"`
		MaxBytes  int           `json:"max_bytes"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}{batchMessages, bytes, pullFor, heartbeat})
	if err != nil {
		return nil, err
	}
	p := &pulled{nc: js.Conn(), from: make(chan *nats.Msg, 2*batchMessages), left: batchMessages}
	if p.sub, err = p.nc.ChanSubscribe(p.nc.NewInbox(), p.from); err != nil {
		return nil, err
	}
	p.again = p.nc.StatusChanged(nats.CONNECTED)
	if err := p.nc.PublishRequest(api(js, "CONSUMER.MSG.NEXT."+stream+"."+Durable), p.sub.Subject, body); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// api returns a subject of the JetStream API.
func api(js jetstream.JetStream, what string) string {
	switch o := js.Options(); {
	case o.APIPrefix != "":
		return strings.TrimSuffix(o.APIPrefix, ".") + "." + what
	case o.Domain != "":
		return "$JS." + o.Domain + ".API." + what
	}
	return "$JS.API." + what
}

// next waits for a message and takes what else has arrived. It returns without
// one when the request has ended, soon comes or ctx ends.
func (p *pulled) next(ctx context.Context, soon <-chan time.Time, most int) (batch []*nats.Msg) {
	silence := time.NewTimer(2 * heartbeat)
	defer silence.Stop()
	bytes := 0
	take := func(msg *nats.Msg) {
		if p.take(msg) {
			batch = append(batch, msg)
			bytes += len(msg.Data)
		}
	}
	for len(batch) == 0 && !p.ended {
		select {
		case msg := <-p.from:
			take(msg)
			silence.Reset(2 * heartbeat)
		case <-soon:
			return nil
		case <-ctx.Done():
			p.ended = true
		case <-p.again:
			p.ended, p.err = true, errReplaced // the server has forgotten the request
		case <-silence.C:
			p.ended, p.err = true, errors.New("the server is silent")
		}
	}
	for !p.ended && bytes < most {
		select {
		case msg := <-p.from:
			take(msg)
		default:
			return batch
		}
	}
	return batch
}

// take reports whether what came is a message.
func (p *pulled) take(msg *nats.Msg) bool {
	if strings.HasPrefix(msg.Reply, ackPrefix) {
		p.left--
		p.ended = p.left == 0
		return true
	}
	description := msg.Header.Get("Description")
	switch status := msg.Header.Get("Status"); {
	case status == "100": // a heartbeat
	case status == "404", status == "408", status == "409" && fulfilled(description):
		p.ended = true
	case status == "503":
		p.ended, p.err = true, nats.ErrNoResponders
	default:
		p.ended, p.err = true, fmt.Errorf("the server says %s %s", status, description)
	}
	return false
}

// fulfilled reports whether a request ended since its bounds were reached.
func fulfilled(description string) bool {
	description = strings.ToLower(description)
	return strings.Contains(description, "exceeds maxbytes") || strings.Contains(description, "batch completed")
}

// close gives back what has come and was not taken. It waits for what the
// server had sent before it heard that nobody asks any more.
func (p *pulled) close() {
	p.nc.RemoveStatusListener(p.again)
	if err := p.sub.Drain(); err == nil && p.nc.IsConnected() {
		_ = p.nc.FlushTimeout(time.Second) // what does not come in time comes again after ackWait
	}
	for {
		select {
		case msg := <-p.from:
			if strings.HasPrefix(msg.Reply, ackPrefix) {
				p.giveBack(msg)
			}
		default:
			return
		}
	}
}

func (p *pulled) giveBack(msg *nats.Msg) {
	_ = p.nc.Publish(msg.Reply, []byte("-NAK")) // else it comes again after ackWait
}

func (p *pulled) acknowledge(msg *nats.Msg) error {
	return p.nc.Publish(msg.Reply, []byte("+ACK"))
}

// acknowledged returns when JetStream knows of this and all acknowledgements
// before.
func (p *pulled) acknowledged(ctx context.Context, msg *nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := p.nc.RequestWithContext(ctx, msg.Reply, []byte("+ACK"))
	return err
}

// storedAt asks the leader of a stream when a message was stored: the one with
// the sequence, or the first one from there. ok is false where there is none.
func (c *Copier) storedAt(ctx context.Context, seq int64, orLater bool) (at time.Time, ok bool, err error) {
	ask := map[string]any{"seq": seq}
	if orLater {
		ask["next_by_subj"] = ">"
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return at, false, err
	}
	msg, err := c.cfg.JetStream.Conn().RequestWithContext(ctx, api(c.cfg.JetStream, "STREAM.MSG.GET."+c.cfg.Stream), body)
	if err != nil {
		return at, false, fmt.Errorf("read message %d of stream %s: %w", seq, c.cfg.Stream, err)
	}
	var reply struct {
		Message struct {
			Time time.Time `json:"time"`
		} `json:"message"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		return at, false, fmt.Errorf("read message %d of stream %s: %w", seq, c.cfg.Stream, err)
	}
	if e := reply.Error; e != nil {
		if e.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return at, false, nil
		}
		return at, false, fmt.Errorf("read message %d of stream %s: %w", seq, c.cfg.Stream, e)
	}
	return reply.Message.Time, true, nil
}
