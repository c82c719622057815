package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/semaphore"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// reader reads messages of streams by sequence. It has a connection of its own:
// the server answers direct gets inside the read loop of the connection that
// asks, and everything else on it waits behind them.
type reader struct {
	nc     *nats.Conn
	prefix string // of reply subjects
	sub    *nats.Subscription
	room   *semaphore.Weighted // for messages that are asked for

	mu      sync.Mutex
	next    uint64
	pending map[uint64]*getting
}

// askAtOnce bounds how many messages are asked for at a time, over all reads. A
// stream sends them through the queue through which it acknowledges publishes:
// who publishes waits behind all of them.
const askAtOnce = 256

// getting is a set of reads under way.
type getting struct {
	found []*found // by the order of asking; nil: not answered yet
	left  int
	done  chan struct{}
}

// found is a message as it is stored. gone: nothing is stored under its sequence.
type found struct {
	gone    bool
	at      wire.Position
	subject string
	header  nats.Header
	data    []byte
}

// errGone says that a message is not in the stream.
var errGone = errors.New("no such message")

func newReader(nc *nats.Conn) (*reader, error) {
	r := &reader{nc: nc, prefix: nats.NewInbox() + ".", pending: map[uint64]*getting{}, room: semaphore.NewWeighted(askAtOnce)}
	var err error
	if r.sub, err = nc.Subscribe(r.prefix+"*.*", r.answered); err != nil {
		return nil, fmt.Errorf("subscribe to reads: %w", err)
	}
	return r, r.sub.SetPendingLimits(-1, -1) // bounded by what is asked for
}

// bySeq reads messages of a stream, all at once.
func (r *reader) bySeq(ctx context.Context, stream string, seqs []int64) ([]*found, error) {
	if len(seqs) == 0 {
		return nil, nil
	}
	weight := min(int64(len(seqs)), askAtOnce)
	if err := r.room.Acquire(ctx, weight); err != nil {
		return nil, away(err)
	}
	defer r.room.Release(weight)
	g := &getting{found: make([]*found, len(seqs)), left: len(seqs), done: make(chan struct{})}
	r.mu.Lock()
	r.next++
	id := r.next
	r.pending[id] = g
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.pending, id)
		r.mu.Unlock()
	}()
	subject := streams.DirectGet(stream)
	reply := r.prefix + strconv.FormatUint(id, 10) + "."
	for i, seq := range seqs {
		body := strconv.AppendInt(append(make([]byte, 0, 32), `{"seq":`...), seq, 10)
		if err := r.nc.PublishRequest(subject, reply+strconv.Itoa(i), append(body, '}')); err != nil {
			return nil, away(err)
		}
	}
	select {
	case <-g.done:
	case <-ctx.Done():
		return nil, away(ctx.Err())
	}
	for _, f := range g.found {
		if f.header != nil && f.gone && f.subject == noResponders {
			return nil, wire.Errorf(wire.Unavailable, "the stream is not there")
		}
	}
	return g.found, nil
}

const noResponders = "503"

// answered takes one answer; it runs on the subscription's goroutine.
func (r *reader) answered(msg *nats.Msg) {
	id, slot, ok := parseReply(strings.TrimPrefix(msg.Subject, r.prefix))
	if !ok {
		return
	}
	f := stored(msg)
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.pending[id]
	if g == nil || slot >= len(g.found) || g.found[slot] != nil {
		return
	}
	g.found[slot] = f
	if g.left--; g.left == 0 {
		close(g.done)
	}
}

func parseReply(s string) (id uint64, slot int, ok bool) {
	a, b, ok := strings.Cut(s, ".")
	if !ok {
		return 0, 0, false
	}
	id, err := strconv.ParseUint(a, 10, 64)
	if err != nil {
		return 0, 0, false
	}
	slot, err = strconv.Atoi(b)
	return id, slot, err == nil && slot >= 0
}

// stored reads the answer to a direct get. A status counts only where the
// server's own headers are missing: a publisher can write one too.
func stored(msg *nats.Msg) *found {
	at, _, ok := streams.Stored(msg.Header)
	if !ok {
		f := &found{gone: true, header: msg.Header}
		if wire.HeaderValue(msg.Header, "Status") == noResponders {
			f.subject = noResponders
		}
		return f
	}
	return &found{at: at, subject: wire.HeaderValue(msg.Header, "Nats-Subject"), header: msg.Header, data: msg.Data}
}

// scan reads a subject of a stream from its beginning, at most so many
// messages. It costs what the stream holds, not what it returns, and nobody can
// publish into the stream meanwhile.
func (r *reader) scan(ctx context.Context, stream, subject string, most int) ([]*found, error) {
	query, err := json.Marshal(struct {
		Seq   int64  `json:"seq"`
		Next  string `json:"next_by_subj"`
		Batch int    `json:"batch"`
	}{1, subject, most})
	if err != nil {
		return nil, fmt.Errorf("scan %s: %w", stream, err)
	}
	replies := make(chan *nats.Msg, most+1)
	sub, err := r.nc.ChanSubscribe(nats.NewInbox(), replies)
	if err != nil {
		return nil, away(err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only with the connection
	if err := r.nc.PublishRequest(streams.DirectGet(stream), sub.Subject, query); err != nil {
		return nil, away(err)
	}
	var all []*found
	for {
		select {
		case msg := <-replies:
			f := stored(msg)
			if !f.gone {
				all = append(all, f)
				continue
			}
			switch status := wire.HeaderValue(msg.Header, "Status"); status {
			case "204", "404": // the end; nothing at all
				return all, nil
			case noResponders:
				return nil, wire.Errorf(wire.Unavailable, "the stream is not there")
			default:
				return nil, fmt.Errorf("scan %s: status %s", stream, status)
			}
		case <-ctx.Done():
			return nil, away(ctx.Err())
		}
	}
}

// leader asks the leader of a stream for one message: by sequence, or the
// newest of a subject. What is not there is errGone.
func (r *reader) leader(ctx context.Context, stream string, seq int64, subject string) (*found, error) {
	query := struct {
		Seq  int64  `json:"seq,omitempty"`
		Last string `json:"last_by_subj,omitempty"`
	}{seq, subject}
	var reply struct {
		Message *struct {
			Subject string    `json:"subject"`
			Seq     int64     `json:"seq"`
			Headers []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
		apiError
	}
	if err := r.api(ctx, streams.LeaderGet(stream), query, &reply); err != nil {
		return nil, err
	}
	switch {
	case reply.Error != nil && reply.Error.ErrCode == codeNoMessage:
		return nil, errGone
	case reply.Error != nil:
		return nil, reply.err()
	case reply.Message == nil:
		return nil, wire.Errorf(wire.Unavailable, "JetStream answered nothing")
	}
	m := reply.Message
	f := &found{at: wire.Position{Seq: m.Seq, Ts: m.Time.UnixMilli()}, subject: m.Subject, data: m.Data}
	if len(m.Headers) > 0 {
		h, err := nats.DecodeHeadersMsg(m.Headers)
		if err != nil {
			return nil, fmt.Errorf("read the headers of %s %d: %w", stream, m.Seq, err)
		}
		f.header = h
	}
	return f, nil
}

// state is where a stream begins and ends.
type state struct {
	first, last wire.Position // first.Seq is last.Seq+1 of an empty stream
	messages    int64
	bytes       int64
	created     time.Time
	cleared     int64 // its last sequence when it was last cleared as a whole; 0: never
	grownAt     int64 // where it was when it last began to keep more of each topic; 0: never
	grownFrom   int   // how many it kept before that
}

// state asks the leader how far a stream is.
func (r *reader) state(ctx context.Context, stream string) (state, error) {
	var reply struct {
		Created time.Time `json:"created"`
		Config  struct {
			Metadata map[string]string `json:"metadata"`
		} `json:"config"`
		State struct {
			Messages  int64     `json:"messages"`
			Bytes     int64     `json:"bytes"`
			First     int64     `json:"first_seq"`
			FirstTime time.Time `json:"first_ts"`
			Last      int64     `json:"last_seq"`
			LastTime  time.Time `json:"last_ts"`
		} `json:"state"`
		apiError
	}
	if err := r.api(ctx, "$JS.API.STREAM.INFO."+stream, struct{}{}, &reply); err != nil {
		return state{}, err
	}
	if reply.Error != nil {
		return state{}, reply.err()
	}
	s := &reply.State
	out := state{last: wire.Position{Seq: s.Last}, messages: s.Messages, bytes: s.Bytes, created: reply.Created}
	out.grownAt, out.grownFrom = streams.Grown(reply.Config.Metadata)
	if cleared := reply.Config.Metadata[metaCleared]; cleared != "" {
		var err error
		if out.cleared, err = strconv.ParseInt(cleared, 10, 64); err != nil {
			return state{}, fmt.Errorf("metadata %s of %s: %w", metaCleared, stream, err)
		}
	}
	if s.Messages == 0 {
		out.first.Seq = s.Last + 1
		return out, nil
	}
	out.first = wire.Position{Seq: s.First, Ts: s.FirstTime.UnixMilli()}
	out.last.Ts = s.LastTime.UnixMilli()
	return out, nil
}

// metaCleared is, in a stream's metadata, its last sequence when it was cleared
// as a whole: without a marker in every topic nothing else tells a topic that
// was emptied from one that never had a message.
const metaCleared = "fairlead.cleared"

// clear notes where a stream ends, and removes what is before that.
func (r *reader) clear(ctx context.Context, stream string) error {
	var info struct {
		Config map[string]any `json:"config"`
		State  struct {
			Last int64 `json:"last_seq"`
		} `json:"state"`
		apiError
	}
	if err := r.api(ctx, "$JS.API.STREAM.INFO."+stream, struct{}{}, &info); err != nil {
		return err
	}
	if info.Error != nil {
		return info.err()
	}
	metadata, _ := info.Config["metadata"].(map[string]any)
	if metadata == nil {
		metadata = map[string]any{}
	}
	metadata[metaCleared] = strconv.FormatInt(info.State.Last, 10)
	info.Config["metadata"] = metadata
	var reply struct {
		apiError
	}
	if err := r.api(ctx, "$JS.API.STREAM.UPDATE."+stream, info.Config, &reply); err != nil {
		return err
	}
	if reply.Error != nil {
		return reply.err()
	}
	return r.purge(ctx, stream, "", info.State.Last+1)
}

// purge removes what a stream holds: all of it, or of one subject what comes
// before a sequence.
func (r *reader) purge(ctx context.Context, stream, subject string, before int64) error {
	query := struct {
		Filter string `json:"filter,omitempty"`
		Seq    int64  `json:"seq,omitempty"`
	}{subject, before}
	var reply struct {
		apiError
	}
	if err := r.api(ctx, "$JS.API.STREAM.PURGE."+stream, query, &reply); err != nil {
		return err
	}
	if reply.Error != nil {
		return reply.err()
	}
	return nil
}

const codeNoMessage = 10037

type apiError struct {
	Error *struct {
		Code        int    `json:"code"`
		ErrCode     int    `json:"err_code"`
		Description string `json:"description"`
	} `json:"error"`
}

func (e *apiError) err() error {
	if e.Error.Code == 404 || e.Error.Code == 503 {
		return wire.Errorf(wire.Unavailable, "JetStream: %s", e.Error.Description)
	}
	return fmt.Errorf("JetStream: %s (%d)", e.Error.Description, e.Error.ErrCode)
}

// api asks JetStream. A leader that is being elected does not answer: it is
// asked again until ctx ends.
func (r *reader) api(ctx context.Context, subject string, query, reply any) error {
	data, err := json.Marshal(query)
	if err != nil {
		return fmt.Errorf("ask %s: %w", subject, err)
	}
	for {
		once, cancel := context.WithTimeout(ctx, apiTry)
		msg, err := r.nc.RequestWithContext(once, subject, data)
		cancel()
		if err != nil && ctx.Err() == nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout)) {
			continue
		}
		if err != nil {
			return away(err)
		}
		if leaderless(msg.Data) {
			if err := clock.Sleep(ctx, retryPause); err != nil {
				return away(err)
			}
			continue
		}
		if err := json.Unmarshal(msg.Data, reply); err != nil {
			return fmt.Errorf("read the answer of %s: %w", subject, err)
		}
		return nil
	}
}

// leaderless reports whether a server answered that knows of no leader. Every
// server of a cluster hears a request, and the first answer counts: one that has
// just started says so while the others have all that was asked for.
func leaderless(answer []byte) bool {
	if !bytes.Contains(answer, []byte(`"err_code":10008`)) {
		return false // most answers; a message that holds this text is told apart below
	}
	var reply apiError
	return json.Unmarshal(answer, &reply) == nil && reply.Error != nil && reply.Error.ErrCode == codeNoLeader
}

const codeNoLeader = 10008

// apiTry bounds one try of a request to JetStream.
const apiTry = time.Second

// away says what a failed request to NATS means for who asked.
func away(err error) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return wire.Errorf(wire.Unavailable, "JetStream is not there")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return wire.Errorf(wire.Unavailable, "JetStream did not answer in time")
	case errors.Is(err, context.Canceled):
		return wire.Errorf(wire.Cancelled, "cancelled")
	case bus.Away(err), errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionClosed):
		return wire.Errorf(wire.Unavailable, "NATS is away")
	}
	return fmt.Errorf("ask JetStream: %w", err)
}
