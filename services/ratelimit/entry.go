package ratelimit

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-io/fairlead/internal/limits"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// maxBatches is of how many replicas an entry knows the last write.
	maxBatches = 8
	// maxRefunds is how many refunds an entry remembers, each for refundMemory.
	maxRefunds   = 256
	refundMemory = time.Minute
	// rest is how long an entry outlives what it says: clocks disagree a little.
	rest = 5 * time.Second
	// maxAhead is by how much the time of a bucket may be ahead of the server's,
	// which then stands still for it: servers of a cluster whose clocks differ by
	// less give what they differ by once. What is further ahead was written while a
	// server's clock was wrong.
	maxAhead = time.Minute
)

// entry is what is stored under a key. The zero value is of a key that nobody
// has taken from.
type entry struct {
	buckets []held         // one of each policy
	batches []batch        // the newest is the last
	refunds []refundedOnce // the newest is the last
	// broken says why what is stored could not be read. It stands for no tokens at
	// all: only a reset makes a new entry of it, or its end.
	broken error
}

// held is a policy's bucket.
type held struct {
	policy string
	limits.Bucket
	rate rate
	full int64 // µs since 1970 from which it says no more than one that is not there
}

// batch is the last write of a replica. By it the replica recognises a write
// whose acknowledgement it did not get.
type batch struct {
	Replica string `json:"r"`
	Number  uint64 `json:"n"`
}

// refundedOnce is a refund that is not to be made again.
type refundedOnce struct {
	ID string `json:"i"` // of refundID
	At int64  `json:"a"` // µs since 1970
}

// storedEntry is an entry as JSON. A later release may add to it what this one
// can do without; what changes the meaning of the rest begins another version of
// the keys.
type storedEntry struct {
	Buckets map[string]storedBucket `json:"buckets"`
	Batches []batch                 `json:"batches"`
	Refunds []refundedOnce          `json:"refunds"`
}

type storedBucket struct {
	limits.Bucket
	rate
	Full int64 `json:"f"`
}

// decodeEntry reads what is stored under a key. What it can't read is a broken
// entry, never a full one.
func decodeEntry(value []byte) entry {
	e, err := readEntry(value)
	if err != nil {
		return entry{broken: fmt.Errorf("read an entry of %d bytes: %w", len(value), err)}
	}
	return e
}

func readEntry(value []byte) (e entry, err error) {
	if !bytes.HasPrefix(value, []byte("{")) { // null would be an empty one
		return entry{}, errors.New("no object")
	}
	var s storedEntry
	d := json.NewDecoder(bytes.NewReader(value))
	if err := d.Decode(&s); err != nil {
		return entry{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return entry{}, errors.New("more than one value")
	}
	if s.Buckets == nil {
		return entry{}, errors.New("no buckets")
	}
	for policy, b := range s.Buckets {
		switch {
		case policy == "":
			return entry{}, errors.New("a bucket without a policy")
		case b.Missing < 0 || b.Share < 0 || b.At < 0 || b.Ban < 0 || b.Full < 0:
			return entry{}, errors.New("a negative number")
		case b.Missing > 0 && b.Share == 0: // nothing would be missing of it
			return entry{}, errors.New("shares of no size")
		case !b.valid():
			return entry{}, errors.New("a rate that no limit has")
		}
		e.buckets = append(e.buckets, held{policy, b.Bucket, b.rate, b.Full})
	}
	slices.SortFunc(e.buckets, func(a, b held) int { return strings.Compare(a.policy, b.policy) })
	for _, b := range s.Batches {
		if b.Replica == "" || b.Number == 0 {
			return entry{}, errors.New("a batch of nobody")
		}
	}
	for _, r := range s.Refunds {
		if r.ID == "" || r.At < 0 {
			return entry{}, errors.New("a refund without an id or a time")
		}
	}
	e.batches, e.refunds = s.Batches, s.Refunds
	return e, nil
}

// append adds the entry as it is stored to b.
func (e *entry) append(b []byte) []byte {
	b = append(b, `{"buckets":{`...)
	for i := range e.buckets {
		h := &e.buckets[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = wire.AppendString(b, h.policy)
		b = append(b, `:{"f":`...)
		b = strconv.AppendInt(b, h.full, 10)
		b = appendNumber(b, `,"m":`, h.Missing)
		b = appendNumber(b, `,"s":`, h.Share)
		b = appendNumber(b, `,"a":`, h.At)
		b = appendNumber(b, `,"b":`, h.Ban)
		b = appendNumber(b, `,"c":`, int64(h.rate.Capacity))
		b = appendNumber(b, `,"r":`, int64(h.rate.Refill))
		b = appendNumber(b, `,"p":`, int64(h.rate.Per))
		b = append(b, '}')
	}
	b = append(b, '}')
	for i, at := range e.batches {
		b = append(b, separator(i, `,"batches":[`)...)
		b = append(b, `{"r":`...)
		b = wire.AppendString(b, at.Replica)
		b = append(b, `,"n":`...)
		b = strconv.AppendUint(b, at.Number, 10)
		b = append(b, '}')
	}
	if len(e.batches) > 0 {
		b = append(b, ']')
	}
	for i, r := range e.refunds {
		b = append(b, separator(i, `,"refunds":[`)...)
		b = append(b, `{"i":`...)
		b = wire.AppendString(b, r.ID)
		b = append(b, `,"a":`...)
		b = strconv.AppendInt(b, r.At, 10)
		b = append(b, '}')
	}
	if len(e.refunds) > 0 {
		b = append(b, ']')
	}
	return append(b, '}')
}

func appendNumber(b []byte, name string, n int64) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendInt(append(b, name...), n, 10)
}

func separator(i int, first string) string {
	if i == 0 {
		return first
	}
	return ","
}

// clone returns a copy that can be changed by itself.
func (e *entry) clone() entry {
	return entry{slices.Clone(e.buckets), slices.Clone(e.batches), slices.Clone(e.refunds), e.broken}
}

// find returns a policy's bucket, nil where there is none.
func (e *entry) find(policy string) *held {
	for i := range e.buckets {
		if e.buckets[i].policy == policy {
			return &e.buckets[i]
		}
	}
	return nil
}

// set stores what a policy has.
func (e *entry) set(next held) {
	if h := e.find(next.policy); h != nil {
		*h = next
		return
	}
	e.buckets = append(e.buckets, next)
}

// drop removes a policy's bucket, and reports whether there was one.
func (e *entry) drop(policy string) bool {
	before := len(e.buckets)
	e.buckets = slices.DeleteFunc(e.buckets, func(h held) bool { return h.policy == policy })
	return len(e.buckets) < before
}

// wrote notes that a replica writes the entry now, and leaves out what says
// nothing any more.
func (e *entry) wrote(by batch, now time.Time) {
	gone := now.Add(-rest).UnixMicro()
	e.buckets = slices.DeleteFunc(e.buckets, func(h held) bool { return h.full <= gone })
	e.forgetRefunds(now)
	e.batches = slices.DeleteFunc(e.batches, func(b batch) bool { return b.Replica == by.Replica })
	e.batches = append(e.batches, by)
	e.batches = e.batches[max(0, len(e.batches)-maxBatches):]
}

// settle brings what was written by a clock that was far ahead back to now: what is
// missing stays missing, a ban lasts as long as it had to. It reports whether
// there was any, which has to be stored for time to go on.
func (e *entry) settle(now time.Time) (mended bool) {
	if now.IsZero() {
		return false
	}
	at := now.UnixMicro()
	most := at + maxAhead.Microseconds()
	for i := range e.buckets {
		h := &e.buckets[i]
		ahead := h.At - at
		if h.At <= most {
			continue
		}
		h.At, h.full, mended = at, max(h.full-ahead, at), true
		if h.Ban > 0 {
			h.Ban = max(h.Ban-ahead, 0)
		}
	}
	for i := range e.refunds {
		if r := &e.refunds[i]; r.At > most {
			r.At, mended = at, true
		}
	}
	return mended
}

// has reports whether the entry is one that a write led to.
func (e *entry) has(by batch) bool { return slices.Contains(e.batches, by) }

// life is for how long the entry says more than one that is not there, and what
// it outlives that by: whole seconds.
func (e *entry) life(now time.Time) time.Duration {
	until := int64(0)
	for i := range e.buckets {
		until = max(until, e.buckets[i].full)
	}
	for i := range e.refunds {
		until = max(until, e.refunds[i].At+refundMemory.Microseconds())
	}
	left := time.Duration(max(until-now.UnixMicro(), 0)) * time.Microsecond
	return (left + time.Second - 1).Truncate(time.Second) + rest
}

// refundID is what is remembered of a refund: as long for every id.
func refundID(policy, id string) string {
	sum := sha256.Sum256([]byte(policy + "\x00" + id))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

func (e *entry) refunded(id string) bool {
	return slices.ContainsFunc(e.refunds, func(r refundedOnce) bool { return r.ID == id })
}

// forgetRefunds leaves out the refunds that need not be remembered any more.
func (e *entry) forgetRefunds(now time.Time) {
	gone := now.Add(-refundMemory).UnixMicro()
	e.refunds = slices.DeleteFunc(e.refunds, func(r refundedOnce) bool { return r.At <= gone })
}
