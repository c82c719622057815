package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/ledger"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ledgers are those of the rules whose keys outlive their stream's window.
type ledgers struct {
	mu   sync.Mutex
	open map[string]*ledger.Ledger // by bucket; of rules that there are
}

// ledger returns the ledger of a rule, nil where its stream remembers the keys.
func (g *Service) ledger(rule *rules.Topic) *ledger.Ledger {
	if rule == nil || !ledger.Needed(rule.Replay) {
		return nil
	}
	bucket := ledger.Bucket(g.cfg.Namespace, rule)
	g.ledgers.mu.Lock()
	defer g.ledgers.mu.Unlock()
	if l := g.ledgers.open[bucket]; l != nil {
		return l
	}
	l := ledger.Open(g.requests, g.cfg.Namespace, rule)
	kept := map[string]*ledger.Ledger{bucket: l}
	for _, r := range g.rules.Current().Topics {
		name := ledger.Bucket(g.cfg.Namespace, r)
		if old := g.ledgers.open[name]; old != nil && ledger.Needed(r.Replay) {
			kept[name] = old
		}
	}
	g.ledgers.open = kept
	return l
}

// keyed is a publish that is stored once.
type keyed struct {
	g      *Service
	msg    *nats.Msg
	topic  string
	user   string
	key    string
	salt   int            // tries after an id was found taken
	ledger *ledger.Ledger // nil: the stream remembers
	keys   int            // most that the ledger takes
	done   func(streams.Ack, *wire.Error)
}

// store publishes unless the key is known. Nothing was stored, and done is not
// called, where it returns an error. It waits for the ledger: whoever publishes
// does so in order.
func (k *keyed) store(ctx context.Context) *wire.Error {
	for ; ; k.salt++ {
		id := streams.MessageID(k.topic, k.user, k.key, k.salt)
		k.msg.Header[wire.HeaderMsgID] = []string{id}
		if k.ledger == nil {
			break
		}
		found, err := k.g.known(ctx, k.ledger, id, k.keys)
		if err != nil {
			return err
		}
		if found == nil {
			break
		}
		if k.salt == maxSalt || found.Header == nil || sameSender(found.Header, k.msg) {
			k.g.metrics.duplicates.Add(1)
			k.done(streams.Ack{Seq: found.Seq, Duplicate: true}, nil)
			return nil
		}
	}
	k.g.put(k.msg, k.topic, true, k.stored)
	return nil
}

// stored takes what JetStream says.
func (k *keyed) stored(ack streams.Ack, err *wire.Error) {
	if err == nil && !ack.Duplicate && k.ledger != nil {
		k.g.note(k.ledger.Note(wire.HeaderValue(k.msg.Header, wire.HeaderMsgID), ack.Seq))
	}
	if err != nil || !ack.Duplicate || k.salt == maxSalt {
		k.done(ack, err)
		return
	}
	// An id can be written by anyone who may publish on the bus: only the
	// message under it says whose it is.
	started := k.g.mender.spawn(func(ctx context.Context) {
		if k.g.own(ctx, ack, k.msg) {
			k.done(ack, nil)
			return
		}
		k.salt++
		if err := k.store(ctx); err != nil {
			k.done(streams.Ack{}, err)
		}
	})
	if !started {
		k.done(ack, nil)
	}
}

// known asks a ledger for an id.
func (g *Service) known(ctx context.Context, l *ledger.Ledger, id string, keys int) (*ledger.Found, *wire.Error) {
	g.metrics.ledgerLookups.Add(1)
	found, err := l.Check(ctx, id, keys)
	switch {
	case err != nil:
		g.metrics.ledgerRefusals.Add(1)
	case found != nil:
		g.metrics.ledgerHits.Add(1)
	}
	return found, wire.AsErrorOrNil(err)
}

// note counts ids that could not be sent to the ledger: the filler notes them.
func (g *Service) note(err error) {
	if err != nil {
		g.metrics.publishErrors.Add(1)
	}
}

// sameSender reports whether a stored message is of the topic and user of msg.
func sameSender(h nats.Header, msg *nats.Msg) bool {
	return wire.HeaderValue(h, "Nats-Subject") == msg.Subject &&
		wire.HeaderValue(h, wire.HeaderUser) == wire.HeaderValue(msg.Header, wire.HeaderUser)
}

// remembered is an atomic batch of a rule with a ledger.
type remembered struct {
	ledger *ledger.Ledger
	keys   int
	ids    []string // "" of a message without a key
	whole  bool     // every message has a key
}

// remember returns what an atomic batch needs of a ledger, nil where it needs
// none.
func (g *Service) remember(rule *rules.Topic, msgs []*nats.Msg) *remembered {
	r := &remembered{ledger: g.ledger(rule), ids: make([]string, len(msgs)), whole: true}
	if r.ledger == nil {
		return nil
	}
	r.keys = rule.Replay.DedupeKeys
	any := false
	for i, msg := range msgs {
		r.ids[i] = wire.HeaderValue(msg.Header, wire.HeaderMsgID)
		r.whole = r.whole && r.ids[i] != ""
		any = any || r.ids[i] != ""
	}
	if !any {
		return nil
	}
	return r
}

// commitOnce stores a batch that may have been stored before: found where it
// was. A batch of which every message has a key is sent again after silence;
// that it was stored then comes as a refusal, and the ledger says where.
func (g *Service) commitOnce(ctx context.Context, msgs []*nats.Msg, r *remembered) ([]*ledger.Found, streams.Ack, error) {
	if r == nil {
		ack, err := g.commit(ctx, msgs, false)
		return nil, ack, err
	}
	g.metrics.ledgerLookups.Add(1)
	found, err := r.ledger.CheckAll(ctx, r.ids, r.keys)
	if err != nil {
		if wire.CodeOf(err) != wire.AlreadyExists {
			g.metrics.ledgerRefusals.Add(1)
		}
		return nil, streams.Ack{}, err
	}
	if found == nil {
		var ack streams.Ack
		if ack, err = g.commit(ctx, msgs, r.whole); err == nil {
			g.note(r.ledger.NoteAll(r.ids, ack.Seq))
			return nil, ack, nil
		}
		if !r.whole || wire.CodeOf(err) != wire.AlreadyExists {
			return nil, streams.Ack{}, err
		}
		outcome := wire.AsError(err).Details["outcome"]
		if found, err = r.ledger.Resolve(ctx, r.ids); err != nil {
			return nil, streams.Ack{}, wire.AsError(err).With("outcome", outcome)
		}
	}
	g.metrics.ledgerHits.Add(1)
	g.metrics.duplicates.Add(int64(len(found)))
	return found, streams.Ack{}, nil
}

// lookupsWait bounds the lookups of one frame, however many messages it has.
const lookupsWait = 5 * time.Second
