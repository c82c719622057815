package kv

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Entry is what a bucket holds under a key. A key that was deleted or expired
// may still have an entry that says so.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64
	At       time.Time // when it was stored
	Deleted  bool
}

// Write is one change of a key.
type Write struct {
	Key   string
	Value []byte
	// Expect is the revision that the key must have, 0 that it must have none,
	// [AnyRevision] that it does not matter.
	Expect uint64
	// TTL is when the entry ends by itself, rounded up to whole seconds; 0: never.
	TTL time.Duration
	// Delete leaves an entry without a value that says that there is none.
	Delete bool
}

// AnyRevision is an expectation that every key meets.
const AnyRevision = math.MaxUint64

var (
	// ErrConflict says that a key did not have the revision that was expected.
	ErrConflict = errors.New("the key was changed meanwhile")
	// ErrNotFound says that a bucket has nothing under a key.
	ErrNotFound = errors.New("no such key")
)

// TooLargeError says that the server never takes a write of this size.
type TooLargeError struct {
	Limit int64 // bytes of a message; 0: the bucket's own, which is not known here
}

func (e *TooLargeError) Error() string {
	if e.Limit == 0 {
		return "larger than the bucket takes"
	}
	return fmt.Sprintf("larger than the %d bytes that NATS takes", e.Limit)
}

const (
	headerOperation = "KV-Operation"
	headerTTL       = "Nats-TTL"
	headerExpect    = "Nats-Expected-Last-Subject-Sequence"
	headerMarker    = "Nats-Marker-Reason"
)

// Codes of the JetStream API for a key without the expected revision: from a
// leader that knows, and from one where another write of it is under way.
const (
	codeWrongSequence = 10071
	codeWriteUnderWay = 10164
	codeNoMessage     = 10037
	codeIncomplete    = 10176 // a batch of which something is missing, or one too many
	codeTooMany       = 10210
	codeTooLarge      = 10054
)

// In a cluster it takes a moment until every node knows that a new stream takes
// its subjects.
const (
	spreadTries = 5
	spreadPause = 50 * time.Millisecond
)

// atomicsAtOnce bounds the atomic writes under way: a stream takes 50.
const atomicsAtOnce = 16

// Put writes one key and returns its new revision. An error other than
// [ErrConflict] leaves it open whether the write was stored.
func (b *Bucket) Put(ctx context.Context, w Write) (uint64, error) {
	return b.store(ctx, b.message(w))
}

// PutAll writes several keys, all or none, and returns the revision of the last
// one; those before it have the numbers just below.
func (b *Bucket) PutAll(ctx context.Context, writes []Write) (uint64, error) {
	if len(writes) == 0 {
		return 0, nil
	}
	if len(writes) == 1 {
		return b.Put(ctx, writes[0])
	}
	select {
	case b.atomics <- struct{}{}:
		defer func() { <-b.atomics }()
	case <-ctx.Done():
		return 0, fmt.Errorf("write to %s: %w", b.stream, ctx.Err())
	}
	msgs := make([]*nats.Msg, len(writes))
	for i, w := range writes {
		msgs[i] = b.message(w)
	}
	streams.Batch(nuid.Next(), msgs)
	for _, msg := range msgs[:len(msgs)-1] {
		if err := b.nc.PublishMsg(msg); err != nil {
			return 0, b.failed(err)
		}
	}
	return b.store(ctx, msgs[len(msgs)-1])
}

func (b *Bucket) message(w Write) *nats.Msg {
	msg := &nats.Msg{Subject: b.subject + w.Key, Data: w.Value, Header: nats.Header{}}
	if w.Expect != AnyRevision {
		msg.Header[headerExpect] = []string{strconv.FormatUint(w.Expect, 10)}
	}
	if w.Delete {
		msg.Data = nil
		// A DEL would leave a marker of the server's when its TTL is over, as a
		// value does: one more change, of a key that is long gone.
		msg.Header[headerOperation] = []string{"PURGE"}
		if w.TTL == 0 {
			w.TTL = MarkerTTL
		}
	}
	if w.TTL > 0 {
		msg.Header[headerTTL] = []string{strconv.FormatInt(int64((w.TTL+time.Second-1)/time.Second), 10)}
	}
	return msg
}

func (b *Bucket) store(ctx context.Context, msg *nats.Msg) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	reply, err := b.nc.RequestMsgWithContext(ctx, msg)
	for tries := 1; errors.Is(err, nats.ErrNoResponders) && tries < spreadTries && clock.Sleep(ctx, spreadPause) == nil; tries++ {
		reply, err = b.nc.RequestMsgWithContext(ctx, msg) // nobody has it: it was not stored
	}
	if err != nil {
		return 0, b.failed(err)
	}
	var ack struct {
		Seq   uint64 `json:"seq"`
		Error *struct {
			ErrCode     int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return 0, fmt.Errorf("write to %s: read the acknowledgement: %w", b.stream, err)
	}
	switch e := ack.Error; {
	case e == nil:
		return ack.Seq, nil
	case e.ErrCode == codeWrongSequence, e.ErrCode == codeWriteUnderWay, e.ErrCode == codeIncomplete, e.ErrCode == codeTooMany:
		return 0, ErrConflict
	case e.ErrCode == codeTooLarge:
		return 0, b.failed(&TooLargeError{})
	default:
		return 0, fmt.Errorf("write to %s: JetStream: %s (%d)", b.stream, e.Description, e.ErrCode)
	}
}

// failed is the error of a write that err ended.
func (b *Bucket) failed(err error) error {
	if errors.Is(err, nats.ErrMaxPayload) {
		err = &TooLargeError{Limit: b.nc.MaxPayload()}
	}
	return fmt.Errorf("write to %s: %w", b.stream, err)
}

// Get returns what the leader has under a key, [ErrNotFound] where nothing. An
// entry that says that the key was deleted is returned too: its revision is what
// the next write has to expect.
func (b *Bucket) Get(ctx context.Context, key string) (Entry, error) {
	e, err := b.last(ctx, key)
	e.Key = key
	return e, err
}

// end returns the revision of the newest entry that the leader has; 0 for none.
func (b *Bucket) end(ctx context.Context) (uint64, error) {
	e, err := b.last(ctx, ">")
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	return e.Revision, err
}

// last returns the newest entry of the keys that a pattern matches, without its
// key.
func (b *Bucket) last(ctx context.Context, pattern string) (Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	query, err := json.Marshal(map[string]string{"last_by_subj": b.subject + pattern})
	if err != nil {
		return Entry{}, fmt.Errorf("read %s: %w", b.stream, err)
	}
	msg, err := b.nc.RequestWithContext(ctx, streams.LeaderGet(b.stream), query)
	if err != nil {
		return Entry{}, fmt.Errorf("read %s: %w", b.stream, err)
	}
	var reply struct {
		Message *struct {
			Seq  uint64    `json:"seq"`
			Hdrs string    `json:"hdrs"`
			Data []byte    `json:"data"`
			Time time.Time `json:"time"`
		} `json:"message"`
		Error *struct {
			ErrCode     int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		return Entry{}, fmt.Errorf("read %s: %w", b.stream, err)
	}
	if e := reply.Error; e != nil {
		if e.ErrCode == codeNoMessage {
			return Entry{}, ErrNotFound
		}
		return Entry{}, fmt.Errorf("read %s: JetStream: %s (%d)", b.stream, e.Description, e.ErrCode)
	}
	m := reply.Message
	if m == nil {
		return Entry{}, fmt.Errorf("read %s: an answer without a message", b.stream)
	}
	headers, err := base64.StdEncoding.DecodeString(m.Hdrs)
	if err != nil {
		return Entry{}, fmt.Errorf("read %s: %w", b.stream, err)
	}
	return Entry{Value: m.Data, Revision: m.Seq, At: m.Time, Deleted: deleted(parseHeaders(string(headers)))}, nil
}

// parseHeaders reads NATS headers as the server stores them.
func parseHeaders(s string) map[string][]string {
	h := map[string][]string{}
	lines := strings.Split(s, "\r\n")
	for _, line := range lines[min(1, len(lines)):] {
		if name, value, ok := strings.Cut(line, ":"); ok {
			h[name] = append(h[name], textproto.TrimString(value))
		}
	}
	return h
}

// deleted reports whether the headers are those of a key without a value.
func deleted(h map[string][]string) bool {
	return wire.HeaderValue(h, headerOperation) != "" || wire.HeaderValue(h, headerMarker) != ""
}

// Republished reads an entry from a message that JetStream republished under a
// prefix, which ends with a dot. ok is false where no stream sent it.
func Republished(prefix string, msg *nats.Msg) (e Entry, ok bool) {
	key, ok := strings.CutPrefix(msg.Subject, prefix)
	if !ok {
		return Entry{}, false
	}
	at, _, ok := streams.Stored(msg.Header)
	if !ok {
		return Entry{}, false
	}
	return Entry{Key: key, Value: msg.Data, Revision: uint64(at.Seq), At: time.UnixMilli(at.Ts), Deleted: deleted(msg.Header)}, true
}

// Purge removes everything that a bucket holds.
func (b *Bucket) Purge(ctx context.Context) (purged int, err error) { return b.purge(ctx, nil) }

// PurgeKeys removes the keys that a pattern matches, and leaves nothing of them.
func (b *Bucket) PurgeKeys(ctx context.Context, pattern string) (purged int, err error) {
	query, err := json.Marshal(map[string]string{"filter": b.subject + pattern})
	if err != nil {
		return 0, fmt.Errorf("purge %s: %w", b.stream, err)
	}
	return b.purge(ctx, query)
}

func (b *Bucket) purge(ctx context.Context, query []byte) (purged int, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	msg, err := b.nc.RequestWithContext(ctx, "$JS.API.STREAM.PURGE."+b.stream, query)
	if err != nil {
		return 0, fmt.Errorf("purge %s: %w", b.stream, err)
	}
	var reply struct {
		Purged int `json:"purged"`
		Error  *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		return 0, fmt.Errorf("purge %s: %w", b.stream, err)
	}
	if reply.Error != nil {
		return 0, fmt.Errorf("purge %s: JetStream: %s", b.stream, reply.Error.Description)
	}
	return reply.Purged, nil
}
