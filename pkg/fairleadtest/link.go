package fairleadtest

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Link is a network between two ends that a test can disturb: between a gateway
// and NATS ([Gateway.NATSLink]), a gateway and its clients ([Gateway.Clients]),
// or a gateway and some clients ([Stack.Link]). Its methods may be called at any
// time by any goroutine, and concern connections that are open as well as later
// ones.
type Link struct {
	listener net.Listener
	to       string
	frames   bool // it carries WebSockets
	pipes    sync.WaitGroup

	mu      sync.Mutex // guards all below
	state   state
	changed chan struct{} // closed and replaced with state
	open    map[*passage]struct{}
	drops   [2][]*drop
	dropped int
}

// state is how a link is disturbed. The zero value is not at all.
type state struct {
	down, stalled bool
	delay         time.Duration
}

// flow is a direction through a link.
type flow int

const (
	there flow = iota // from who connects
	back              // to who connects
)

const (
	chunkBytes = 32 << 10
	// What a direction of a connection holds is bounded, so that an end that sends
	// into a stall is soon held up: by little, unless a delay needs more under way.
	underWay        = 64 << 10
	underWayDelayed = 16 << 20
	parcels         = 1024
	// socketBytes bounds what the system holds beside that on a way to clients.
	socketBytes = 128 << 10
)

// newLink returns a link to an address. frames says that WebSocket messages can
// be told apart on it.
func newLink(to string, frames bool) (*Link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &Link{listener: listener, to: to, frames: frames, changed: make(chan struct{}), open: map[*passage]struct{}{}}
	l.pipes.Go(l.accept)
	return l, nil
}

// Addr returns where the link is entered: host:port.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// Cut resets every connection, and every new one until Restore. What was on its
// way is lost.
func (l *Link) Cut() { l.disturb(func(s *state) { s.down = true }); l.Break() }

// Break resets every connection once; new ones are let in.
func (l *Link) Break() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.open {
		p.reset()
	}
}

// Stall stops both directions until Restore: what is sent waits, as behind a
// network that is gone, and no end is told. Connections can still be opened. Some
// MB go into the link and the buffers of the system before an end is held up.
func (l *Link) Stall() { l.disturb(func(s *state) { s.stalled = true }) }

// Delay has everything that is sent from now on arrive d later, in each
// direction and in order; a round trip takes 2·d more.
func (l *Link) Delay(d time.Duration) { l.disturb(func(s *state) { s.delay = d }) }

// Drop takes the next n frames to clients that match out of their stream, those
// in a batch too: the client never sees them, nobody is told, and what is around
// them arrives. n of 0 is every one; a match of nil takes any. It does nothing
// on a way to NATS. Drops add up until Restore.
func (l *Link) Drop(n int, match func(wire.ServerFrame) bool) {
	l.drop(back, n, func(frame []byte) bool {
		decoded, err := wire.DecodeServer(frame)
		return err == nil && len(decoded) == 1 && (match == nil || match(decoded[0]))
	})
}

// DropSent is [Link.Drop] for what clients send: match sees the frame's JSON.
func (l *Link) DropSent(n int, match func(frame []byte) bool) {
	l.drop(there, n, func(frame []byte) bool { return match == nil || match(frame) })
}

func (l *Link) drop(toward flow, n int, match func([]byte) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drops[toward] = append(l.drops[toward], &drop{left: n, all: n <= 0, match: match})
}

// Dropped returns how many frames were taken out so far.
func (l *Link) Dropped() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

// Restore ends all of it: connections are let in, what waited goes on, nothing
// is delayed or dropped any more.
func (l *Link) Restore() {
	l.disturb(func(s *state) { *s = state{} })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drops = [2][]*drop{}
}

func (l *Link) disturb(how func(*state)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	how(&l.state)
	close(l.changed)
	l.changed = make(chan struct{})
}

// sever cuts the link for good: connections are refused.
func (l *Link) sever() {
	l.listener.Close()
	l.Cut()
}

// close severs the link and waits until nothing of it is left.
func (l *Link) close() {
	l.sever()
	l.pipes.Wait()
}

func (l *Link) accept() {
	for {
		front, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.pipes.Go(func() { l.join(front.(*net.TCPConn)) })
	}
}

// join connects who came to the other end until one of them is gone.
func (l *Link) join(front *net.TCPConn) {
	p := &passage{l: l, ends: [2]*net.TCPConn{front, nil}, gone: make(chan struct{})}
	rear, err := net.Dial("tcp", l.to)
	if err != nil {
		p.reset()
		return
	}
	p.ends[1] = rear.(*net.TCPConn)
	if l.frames {
		for _, c := range p.ends {
			_ = c.SetReadBuffer(socketBytes) // a wish: the link works without
			_ = c.SetWriteBuffer(socketBytes)
		}
	}
	l.mu.Lock()
	if l.state.down {
		l.mu.Unlock()
		p.reset()
		return
	}
	l.open[p] = struct{}{}
	l.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.carry(there, p.ends[1], front) })
	both.Go(func() { p.carry(back, front, p.ends[1]) })
	both.Wait()
	p.finish()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, p)
}

// passage is one connection over a link.
type passage struct {
	l        *Link
	ends     [2]*net.TCPConn // who connected, and whom to
	upgraded atomic.Bool     // it carries WebSocket frames
	over     sync.Once
	gone     chan struct{} // closed when it was reset
}

// reset ends the passage as a network does that knows no more of it.
func (p *passage) reset() { p.end(true) }

// finish ends a passage whose ends have both said that they are done.
func (p *passage) finish() { p.end(false) }

func (p *passage) end(reset bool) {
	p.over.Do(func() {
		close(p.gone)
		for _, c := range p.ends {
			if c == nil {
				continue
			}
			if reset {
				_ = c.SetLinger(0) // an end that is closed already is as good
			}
			_ = c.Close()
		}
	})
}

// parcel is what was read at once, and when it arrives.
type parcel struct {
	bytes []byte
	due   time.Time // zero: at once
}

// way is what one direction of a passage holds.
type way struct {
	parcels chan parcel
	holds   atomic.Int64  // bytes
	left    chan struct{} // has an element when something has arrived
}

// carry takes what one end sends to the other until it has sent everything, or
// the passage is over.
func (p *passage) carry(toward flow, to, from *net.TCPConn) {
	w := &way{parcels: make(chan parcel, parcels), left: make(chan struct{}, 1)}
	var arriving sync.WaitGroup
	arriving.Go(func() { p.arrive(w, to) })
	defer arriving.Wait()
	defer close(w.parcels)
	filter := sieve{p: p, toward: toward}
	b := make([]byte, chunkBytes)
	for p.wait(time.Time{}) && p.hasRoom(w) {
		n, err := from.Read(b)
		if bytes := filter.take(b[:n]); len(bytes) > 0 {
			w.holds.Add(int64(len(bytes)))
			select {
			case w.parcels <- parcel{bytes, p.l.due()}:
			case <-p.gone:
				return
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			p.reset()
			return
		}
	}
}

// arrive writes what is on the way, each parcel when it is due.
func (p *passage) arrive(w *way, to *net.TCPConn) {
	for next := range w.parcels {
		if !p.wait(next.due) {
			return
		}
		if _, err := to.Write(next.bytes); err != nil {
			p.reset()
			return
		}
		w.holds.Add(-int64(len(next.bytes)))
		select {
		case w.left <- struct{}{}:
		default:
		}
	}
	_ = to.CloseWrite() // the passage may be over
}

// hasRoom waits until more may be read; false once the passage is over.
func (p *passage) hasRoom(w *way) bool {
	for {
		p.l.mu.Lock()
		bound := int64(underWay)
		if p.l.state.delay > 0 {
			bound = underWayDelayed
		}
		p.l.mu.Unlock()
		if w.holds.Load() < bound {
			return true
		}
		select {
		case <-w.left:
		case <-p.gone:
			return false
		}
	}
}

// wait returns true once it is due and the link lets bytes pass, false once the
// passage is over.
func (p *passage) wait(due time.Time) bool {
	if d := time.Until(due); !due.IsZero() && d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-p.gone:
			return false
		}
	}
	for {
		p.l.mu.Lock()
		stalled, changed := p.l.state.stalled, p.l.changed
		p.l.mu.Unlock()
		if !stalled {
			break
		}
		select {
		case <-changed:
		case <-p.gone:
			return false
		}
	}
	select {
	case <-p.gone:
		return false
	default:
		return true
	}
}

// due returns when what is sent now arrives; zero is at once.
func (l *Link) due() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state.delay <= 0 {
		return time.Time{}
	}
	return time.Now().Add(l.state.delay)
}
