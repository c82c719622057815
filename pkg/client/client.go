// Package client is a WebSocket client of a Fairlead gateway. A [Client] speaks
// the protocol of package wire over one connection and never reconnects by itself,
// so that its caller sees every close and decides. A [Session] decides as the
// protocol says: it dials again and follows its topics from where it was.
//
//	c, err := client.Dial(ctx, "ws://127.0.0.1:8080/ws", client.Options{Token: token})
//	sub, err := c.Subscribe(ctx, "chat.lobby", client.SubscribeOptions{})
//	_, err = c.Publish(ctx, "chat.lobby", "message", map[string]string{"text": "hi"}, client.PublishOptions{})
//	m, err := sub.Next(ctx)
//
// Errors are [*wire.Error]; their codes say what can be done. Everything that
// a callback receives waits in a queue of its own with a bound, so a slow
// callback never holds the connection; a queue that runs over ends what it
// serves with RESOURCE_EXHAUSTED rather than losing messages in silence.
package client

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Subprotocol names version 1 of the protocol in the upgrade request; a client
// that offers it also receives arrays of frames.
const Subprotocol = "fairlead.v1"

// Bounds that hold where an option leaves them at zero.
const (
	DefaultQueue          = 65536            // messages waiting for one subscription or callback
	DefaultRequestTimeout = 10 * time.Second // wait for a reply
	writeTimeout          = 10 * time.Second // one frame; a peer that takes none for so long is lost
	readLimit             = 64 << 20         // bytes of one WebSocket message
)

// Options says how to connect. The zero value connects without a token,
// without a subprotocol, and says hello.
type Options struct {
	// Token is the JWT that hello carries; empty for an anonymous user.
	Token string
	// TokenSource takes the place of Token: it is asked for the first one, for
	// another one before that expires, and when the server wants a newer one. ctx
	// ends after RequestTimeout. What goes wrong later is told to [Client.OnError].
	TokenSource func(ctx context.Context) (string, error)
	// Session is an earlier [Welcome.Session], to keep that identity.
	Session string
	// Client names the program in hello (for the gateway's records only).
	Client string
	// Batch offers the subprotocol `fairlead.v1`: the server may then join
	// several frames into one message.
	Batch bool
	// Subprotocols replaces what Batch offers.
	Subprotocols []string
	// Origin sets the Origin header; none is sent by default.
	Origin string
	// Header is added to the upgrade request.
	Header http.Header
	// NoHello leaves hello out; [Client.Hello] sends it later.
	NoHello bool
	// HTTPClient makes the upgrade request. Default: a client of its own without a proxy's timeouts.
	HTTPClient *http.Client
	// Queue bounds every queue of this client, in messages. Default [DefaultQueue].
	Queue int
	// RequestTimeout bounds the wait for each reply. Default [DefaultRequestTimeout].
	// A call waits as long as its own timeout and this on top.
	RequestTimeout time.Duration
	// Tap makes [Client.Frames] receive every frame of the server.
	Tap bool
	// Watchdog closes the connection with 4408 when nothing was heard from
	// the server for two of its heartbeats.
	Watchdog bool
}

// Welcome is the gateway's answer to hello.
type Welcome struct {
	Conn            string   `json:"conn"`
	User            string   `json:"user"`
	Session         string   `json:"session"`
	Gateway         string   `json:"gateway"`
	HeartbeatMs     int64    `json:"heartbeatMs"`
	MaxPayloadBytes int64    `json:"maxPayloadBytes"`
	ExpiresAt       int64    `json:"expiresAt,omitempty"` // milliseconds since 1970; 0: never
	Topics          []string `json:"topics,omitempty"`    // subscribed by a claim of the token
}

// Client is one connection. All methods may be called by any goroutine, those
// of a callback included. The caller calls [Client.Close] or [Client.Abort]
// at the end, also after the server closed.
type Client struct {
	conn    *websocket.Conn
	queue   int // bound of every queue
	timeout time.Duration
	welcome atomic.Pointer[Welcome]
	heard   atomic.Int64 // unix nanoseconds of the last bytes from the server

	lastID atomic.Int64

	mu       sync.Mutex
	pending  map[int64]*request
	subs     map[string]*Subscription // by topic or pattern
	patterns int                      // subscriptions in subs that hold a wildcard
	groups   map[string]*Group        // by name
	serves   map[string]*server
	inbox    *callback[Message]
	other    *callback[Message]
	system   *callback[SystemEvent]
	drain    *callback[Drain]
	group    *callback[*wire.ServerFrame]
	failure  *callback[*wire.Error]
	closeErr *CloseError
	localErr *CloseError // what this side closed for, before the reader noticed

	renew    chan struct{}      // has an element when the server wants a newer token
	leaving  chan time.Duration // has an element when the server drains
	refusing chan struct{}      // one element per refusal under way
	tap      chan Frame
	stop     chan struct{} // closed when this side has closed: callbacks end
	halt     sync.Once
	done     chan struct{}  // the reader ended
	workers  sync.WaitGroup // callbacks and the watchdog
}

// Dial opens a connection to url (ws:// or wss://) and says hello. ctx bounds
// both. A refused upgrade is a [*wire.Error] whose code follows the HTTP
// status (401 UNAUTHENTICATED, 403 PERMISSION_DENIED, 429 RESOURCE_EXHAUSTED,
// 503 UNAVAILABLE with its Retry-After, …); details.status holds the status.
func Dial(ctx context.Context, url string, o Options) (*Client, error) {
	if o.TokenSource != nil && !o.NoHello {
		var err error
		if o.Token, err = askToken(ctx, o.TokenSource, cmp.Or(max(o.RequestTimeout, 0), DefaultRequestTimeout)); err != nil {
			return nil, err
		}
	}
	c, err := open(ctx, url, o)
	if err != nil {
		return nil, err
	}
	if !o.NoHello {
		if _, err := c.Hello(ctx, o.Token, o.Session, o.Client); err != nil {
			c.Abort()
			return nil, err
		}
	}
	if o.NoHello {
		o.TokenSource = nil
	}
	c.keep(o)
	return c, nil
}

// keep begins what a connection does by itself once hello was answered.
func (c *Client) keep(o Options) {
	if o.Watchdog {
		c.start(c.watch)
	}
	if o.TokenSource != nil {
		c.start(func() { c.keepToken(o.TokenSource) })
	}
}

func open(ctx context.Context, url string, o Options) (*Client, error) {
	header := o.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	if o.Origin != "" {
		header.Set("Origin", o.Origin)
	}
	protocols := o.Subprotocols
	if protocols == nil && o.Batch {
		protocols = []string{Subprotocol}
	}
	hc := o.HTTPClient
	var own *http.Transport
	if hc == nil {
		own = &http.Transport{DisableKeepAlives: true}
		hc = &http.Client{Transport: own}
	}
	c := &Client{
		queue: o.Queue, timeout: o.RequestTimeout,
		pending: map[int64]*request{}, subs: map[string]*Subscription{}, serves: map[string]*server{},
		refusing: make(chan struct{}, maxServing), renew: make(chan struct{}, 1), leaving: make(chan time.Duration, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	if c.queue <= 0 {
		c.queue = DefaultQueue
	}
	if c.timeout <= 0 {
		c.timeout = DefaultRequestTimeout
	}
	if o.Tap {
		c.tap = make(chan Frame, c.queue)
	}
	conn, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{
		HTTPClient: hc, HTTPHeader: header, Subprotocols: protocols,
		OnPingReceived: func(context.Context, []byte) bool { c.heard.Store(time.Now().UnixNano()); return true },
	})
	if own != nil && err != nil {
		own.CloseIdleConnections()
	}
	if err != nil {
		return nil, refused(ctx, resp, err)
	}
	conn.SetReadLimit(readLimit)
	c.conn = conn
	c.heard.Store(time.Now().UnixNano())
	go c.read()
	return c, nil
}

// Hello identifies the connection; [Dial] calls it unless told not to. Empty
// arguments are left out.
func (c *Client) Hello(ctx context.Context, token, session, name string) (Welcome, error) {
	var w Welcome
	ok, err := c.ask(ctx, c.timeout, func(id int64) []byte {
		f := newFrame("hello", id)
		f.optional("token", token)
		f.optional("session", session)
		f.optional("client", name)
		return f.end()
	})
	if err != nil {
		return w, err
	}
	if err := json.Unmarshal(ok, &w); err != nil {
		return w, wire.Errorf(wire.Internal, "hello's reply: %v", err)
	}
	c.welcome.Store(&w)
	return w, nil
}

// Refresh replaces the connection's token by one of the same user and returns
// when the new one expires, in milliseconds since 1970.
func (c *Client) Refresh(ctx context.Context, token string) (expiresAt int64, err error) {
	ok, err := c.ask(ctx, c.timeout, func(id int64) []byte {
		f := newFrame("refresh", id)
		f.str("token", token)
		return f.end()
	})
	if err != nil {
		return 0, err
	}
	var r struct {
		ExpiresAt int64 `json:"expiresAt"`
	}
	if err := json.Unmarshal(ok, &r); err != nil {
		return 0, wire.Errorf(wire.Internal, "refresh's reply: %v", err)
	}
	return r.ExpiresAt, nil
}

// Welcome returns the answer to hello, zero before it.
func (c *Client) Welcome() Welcome {
	if w := c.welcome.Load(); w != nil {
		return *w
	}
	return Welcome{}
}

// Subprotocol returns what the upgrade agreed on: [Subprotocol] or "".
func (c *Client) Subprotocol() string { return c.conn.Subprotocol() }
