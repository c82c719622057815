package gateway

import (
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/services/gateway/outbox"
)

// eventBody is what a lifecycle event on fl.event.* says beside its time and
// gateway. Events are hints, at most once: what went wrong on the way to NATS
// is counted, never retried.
type eventBody struct {
	Conn     *connection
	User     string // of Conn when empty
	Address  string // likewise
	Code     int
	Reason   string
	Duration time.Duration
	Stats    *outbox.Stats
	Limit    string // limit.exceeded: which one
	Observed int64
	Allowed  int64
	Key      string // limit.exceeded: of the bucket, of a limit of the rules
	Shadow   bool   // of a limit that only reports
	Queued   int    // backpressure: bytes
	What     string // breaker.*: the service
}

type eventJSON struct {
	At          int64  `json:"at"`
	Gateway     string `json:"gateway"`
	Conn        string `json:"conn,omitempty"`
	User        string `json:"user,omitempty"`
	Address     string `json:"address,omitempty"`
	RequestID   string `json:"requestId,omitempty"`
	Code        int    `json:"code,omitempty"`
	Reason      string `json:"reason,omitempty"`
	DurationMs  int64  `json:"durationMs,omitempty"`
	MessagesIn  uint64 `json:"messagesIn,omitempty"`
	MessagesOut uint64 `json:"messagesOut,omitempty"`
	BytesIn     uint64 `json:"bytesIn,omitempty"`
	BytesOut    uint64 `json:"bytesOut,omitempty"`
	Dropped     uint64 `json:"dropped,omitempty"`
	Limit       string `json:"limit,omitempty"`
	Observed    int64  `json:"observed,omitempty"`
	Allowed     int64  `json:"allowed,omitempty"`
	Key         string `json:"key,omitempty"`
	Shadow      bool   `json:"shadow,omitempty"`
	QueuedBytes int    `json:"queuedBytes,omitempty"`
	What        string `json:"what,omitempty"`
}

// event publishes a lifecycle event.
func (g *Service) event(what, rest string, b eventBody) {
	subject, err := g.cfg.Namespace.Event(what, rest)
	if err != nil {
		return
	}
	e := eventJSON{
		At: time.Now().UnixMilli(), Gateway: g.id, User: b.User, Address: b.Address, Code: b.Code, Reason: b.Reason, Key: b.Key, Shadow: b.Shadow,
		DurationMs: b.Duration.Milliseconds(), Limit: b.Limit, Observed: b.Observed, Allowed: b.Allowed, QueuedBytes: b.Queued, What: b.What,
	}
	if c := b.Conn; c != nil {
		e.Conn, e.Address, e.RequestID = c.id, c.address.String(), c.request
		if e.User == "" {
			e.User = c.user()
		}
	}
	if s := b.Stats; s != nil {
		e.MessagesIn, e.MessagesOut, e.BytesIn, e.BytesOut = s.FramesIn, s.MessagesOut, s.BytesIn, s.BytesOut
		e.Dropped = s.DroppedDisconnect + s.DroppedOldest + s.Conflated
	}
	data, err := json.Marshal(e)
	if err != nil {
		return
	}
	if err := g.requests.PublishMsg(&nats.Msg{Subject: subject, Data: data}); err != nil {
		g.metrics.publishErrors.Add(1)
	}
}
