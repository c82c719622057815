package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// lookupWait bounds what a publish waits for the ledger; lookupTry is the
	// silence after which it is asked again.
	lookupWait = 2 * time.Second
	lookupTry  = 500 * time.Millisecond
)

// ErrFull says that the ledger takes no more ids until old ones expire.
var ErrFull = errors.New("the ledger is full")

// errTaken says that a key is not at the revision that was expected.
var errTaken = errors.New("the key was written meanwhile")

// Ledger is the ledger of one rule. Its methods may be called concurrently.
type Ledger struct {
	nc     *nats.Conn
	bucket string
	stream string // whose ids it has
	seen   view
	noted  atomic.Int64 // by this process since the position was read
}

// Open returns the ledger of a rule, which need not be there yet.
func Open(nc *nats.Conn, ns wire.Namespace, rule *rules.Topic) *Ledger {
	return &Ledger{nc: nc, bucket: Bucket(ns, rule), stream: rule.Stream(ns), seen: view{turn: make(chan struct{}, 1)}}
}

// Check returns the message that was stored under an id. Where there is none
// and one may be stored now it returns nil. Else it is a *wire.Error with
// outcome none: RESOURCE_EXHAUSTED where the ledger has keys ids already,
// UNAVAILABLE where it can't be read or is too far behind to say.
func (l *Ledger) Check(ctx context.Context, id string, keys int) (*Found, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupWait)
	defer cancel()
	p, err := l.seen.look(ctx, l) // before the lookup, which it is to vouch for
	if err != nil {
		return nil, refuse(err)
	}
	found, err := l.find(ctx, id, &p.Position)
	switch {
	case err != nil:
		return nil, refuse(err)
	case found != nil:
		return found, nil
	}
	return nil, l.admit(&p, keys, time.Now())
}

// Note writes where an id was stored, without waiting. An entry that is there
// stays. The filler does the same a moment later, so nothing is lost where this
// one is.
func (l *Ledger) Note(id string, seq int64) error {
	msg, err := l.write(id, Entry{Seq: seq}, 0)
	if err != nil {
		return err
	}
	l.noted.Add(1)
	return l.nc.PublishMsg(msg)
}

// Fill writes where an id was stored, and returns once it is in the ledger. The
// first message of an id stays, unless it was lost with the stream it was in.
// [ErrFull] says that there is no room for it.
func (l *Ledger) Fill(ctx context.Context, id string, e Entry, p *Position) error {
	var err error
	for range 4 {
		var have *entry
		if have, err = l.entry(ctx, id); err != nil {
			return err
		}
		expected := int64(0)
		if have != nil {
			if have.Seq == e.Seq && p.holds(have) {
				return nil
			}
			found, err := l.verify(ctx, id, have, p)
			if err != nil || found != nil {
				return err
			}
			expected = have.revision
		}
		if err = l.put(ctx, id, e, expected); !errors.Is(err, errTaken) {
			return err
		}
	}
	return err
}

// find returns the message of an id, nil where the ledger has none.
func (l *Ledger) find(ctx context.Context, id string, p *Position) (*Found, error) {
	have, err := l.entry(ctx, id)
	if err != nil || have == nil {
		return nil, err
	}
	return l.verify(ctx, id, have, p)
}

// entry reads what the ledger has under an id, nil where nothing. A key that was
// deleted by hand is an entry without a sequence.
func (l *Ledger) entry(ctx context.Context, id string) (*entry, error) {
	msg, err := l.get(ctx, Stream(l.bucket), subject(l.bucket, Key(id)), nil)
	if err != nil || msg == nil {
		return nil, err
	}
	if wire.HeaderValue(msg.Header, "KV-Operation") != "" {
		msg.Data = []byte("{}")
	}
	e, err := parseEntry(msg)
	if err != nil {
		return nil, fmt.Errorf("read the entry of an id: %w", err)
	}
	return e, nil
}

// verify returns the message that an entry stands for, nil where it was lost:
// then another message has its place, or nothing can ever have had it.
func (l *Ledger) verify(ctx context.Context, id string, e *entry, p *Position) (*Found, error) {
	if e.Seq <= 0 {
		return nil, nil
	}
	msg, err := l.get(ctx, l.stream, "", strconv.AppendInt([]byte(`{"seq":`), e.Seq, 10))
	switch {
	case err != nil:
		return nil, err
	case msg != nil && wire.HeaderValue(msg.Header, wire.HeaderMsgID) == id:
		return &Found{Entry: e.Entry, Header: msg.Header, at: e.stored()}, nil
	case msg != nil || !p.holds(e):
		return nil, nil
	}
	return &Found{Entry: e.Entry, at: e.stored()}, nil
}

// get reads one message of a stream: the newest of a subject, or by a query
// without its closing brace. nil: there is none.
func (l *Ledger) get(ctx context.Context, stream, subject string, query []byte) (*nats.Msg, error) {
	address := streams.DirectGet(stream)
	if subject != "" {
		address += "." + subject
	} else {
		query = append(query, '}')
	}
	msg, err := l.ask(ctx, &nats.Msg{Subject: address, Data: query})
	if err != nil {
		return nil, err
	}
	if _, _, ok := streams.Stored(msg.Header); ok {
		return msg, nil
	}
	if status := wire.HeaderValue(msg.Header, "Status"); status != "404" {
		return nil, fmt.Errorf("read %s: status %s", stream, status)
	}
	return nil, nil
}

// put writes an entry where its key is at the expected revision; 0: there is
// none.
func (l *Ledger) put(ctx context.Context, id string, e Entry, expected int64) error {
	msg, err := l.write(id, e, expected)
	if err != nil {
		return err
	}
	return l.store(ctx, msg)
}

func (l *Ledger) write(id string, e Entry, expected int64) (*nats.Msg, error) {
	value, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("write an entry: %w", err)
	}
	return &nats.Msg{Subject: subject(l.bucket, Key(id)), Data: value, Header: nats.Header{
		"Nats-Expected-Last-Subject-Sequence": {strconv.FormatInt(expected, 10)},
	}}, nil
}

// Codes of the JetStream API for a key that is not as expected: from the leader
// that knows, and from one where another write of it is under way.
const (
	codeWrongSequence = 10071
	codeWriteUnderWay = 10164
	codeNotStored     = 10077
)

// store publishes into the bucket and waits for the acknowledgement.
func (l *Ledger) store(ctx context.Context, msg *nats.Msg) error {
	reply, err := l.ask(ctx, msg)
	if err != nil {
		return err
	}
	var ack struct {
		Error *struct {
			ErrCode     int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return fmt.Errorf("read an acknowledgement: %w", err)
	}
	switch e := ack.Error; {
	case e == nil:
		return nil
	case e.ErrCode == codeWrongSequence, e.ErrCode == codeWriteUnderWay:
		return errTaken
	case e.ErrCode == codeNotStored && strings.Contains(e.Description, "maximum messages"):
		return ErrFull
	default:
		return fmt.Errorf("write to the ledger: %s (%d)", e.Description, e.ErrCode)
	}
}

// ask makes a request, again where nobody answers: whatever is asked here can be
// asked twice.
func (l *Ledger) ask(ctx context.Context, msg *nats.Msg) (*nats.Msg, error) {
	for {
		try, cancel := context.WithTimeout(ctx, lookupTry)
		reply, err := l.nc.RequestMsgWithContext(try, msg)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return reply, err
		}
	}
}

// refuse says what a failed lookup means for who publishes.
func refuse(err error) error {
	var coded *wire.Error
	if errors.As(err, &coded) {
		return coded.With("outcome", "none")
	}
	return wire.Errorf(wire.Unavailable, "the ledger of the topic's keys can't be read").With("outcome", "none")
}
