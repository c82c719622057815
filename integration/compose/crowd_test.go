//go:build compose

package compose

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	rooms      = 20
	perRoom    = 10 // members, each of whom follows the room: 200 clients
	perTalkers = 2  // of them publish
	talkPause  = 400 * time.Millisecond
)

// crowd is everybody who uses the stack while it is broken: 200 clients in 20
// rooms, an observer of who is in each room, and two workers.
type crowd struct {
	t       *testing.T
	url     string // of the load balancer
	secret  string // that signs tokens
	run     string // distinguishes the topics
	began   time.Time
	ctx     context.Context
	stop    context.CancelFunc
	all     sync.WaitGroup
	writers sync.WaitGroup // those of all who end when enough is said
	enough  chan struct{}  // closed: nobody begins anything new
	members []*client.Session
	paces   []*pace
	workers []*worker

	messages *messages
	tasks    *tasks
	rosters  []*roster
	bucket   *bucket // of the limit, that all take from

	mu      sync.Mutex
	longest time.Duration // the longest wait for an acknowledgement since the last look
	flow    flow
	again   map[string]int
	refused []string // what clients and workers were told that they may not
}

// gather brings the clients in. Workers come with their own method.
func gather(t *testing.T, url, secret string) *crowd {
	t.Helper()
	c := &crowd{
		t: t, url: url, secret: secret, run: fmt.Sprintf("r%d", time.Now().UnixNano()), began: time.Now(),
		messages: newMessages(), tasks: newTasks(), again: map[string]int{}, enough: make(chan struct{}),
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	t.Cleanup(c.leave)
	for room := range rooms {
		topic := c.room(room)
		var users []string
		for i := range perRoom {
			user := fmt.Sprintf("%s-%d-%d", c.run, room, i)
			users = append(users, user)
			s := c.join(user, topic)
			if i < perTalkers {
				p := c.pace(talkPause)
				c.writes(func() { c.talk(s, p, topic, user) })
			}
		}
		r := newRoster(topic, users...)
		c.rosters = append(c.rosters, r)
		c.all.Go(func() { c.observe(r, fmt.Sprintf("%s-observer-%d", c.run, room)) })
	}
	return c
}

func (c *crowd) room(i int) string { return fmt.Sprintf("chat.%s.%d", c.run, i) }

// writes has somebody write until the crowd is hushed, or leaves.
func (c *crowd) writes(write func()) {
	c.writers.Add(1)
	c.all.Go(func() {
		defer c.writers.Done()
		write()
	})
}

// hush lets everybody finish what they have begun, and begin nothing new. Readers
// stay.
func (c *crowd) hush() {
	c.t.Helper()
	close(c.enough)
	quiet := make(chan struct{})
	c.all.Go(func() {
		c.writers.Wait()
		close(quiet)
	})
	select {
	case <-quiet:
	case <-time.After(patience):
		c.t.Error("somebody does not finish what was begun")
	}
}

// leave ends everything that the crowd does.
func (c *crowd) leave() {
	c.stop()
	for _, s := range c.members {
		s.Close()
	}
	for _, s := range c.members {
		s.Wait()
	}
	c.all.Wait()
}

// token is a JWT for a user.
func (c *crowd) token(user string) string {
	encode := base64.RawURLEncoding.EncodeToString
	now := time.Now()
	claims, err := json.Marshal(map[string]any{"sub": user, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()})
	if err != nil {
		panic(err) // strings and numbers
	}
	text := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode(claims)
	mac := hmac.New(sha256.New, []byte(c.secret))
	mac.Write([]byte(text))
	return text + "." + encode(mac.Sum(nil))
}

// options are those of every client: it hears when the server falls silent, and
// waits for no answer for longer than a person would.
func (c *crowd) options(user string) client.Options {
	return client.Options{Token: c.token(user), Batch: true, Watchdog: true, RequestTimeout: 5 * time.Second, Queue: 8192}
}

// join has a user follow a room, and be a member of it, from now on.
func (c *crowd) join(user, topic string) *client.Session {
	s := client.OpenSession(c.url, client.SessionOptions{
		Options: c.options(user), MaxBackoff: 2 * time.Second,
		OnState: func(state client.State, err error) {
			if state == client.StateClosed && err != nil {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.refused = append(c.refused, fmt.Sprintf("%s: the session is closed: %v", user, err))
			}
		},
	})
	c.members = append(c.members, s)
	r := c.messages.open(user, topic)
	_, err := s.Follow(topic, client.FollowOptions{
		Presence: "join",
		OnStart: func(at client.Start) {
			r.start(at.Seq, at.Recovered)
		},
		OnMessage: func(m client.Message) {
			var said message
			if err := json.Unmarshal(m.Payload(), &said); err != nil {
				said.Publisher = string(m.Payload()) // nobody published that
			}
			r.deliver(said, m.Seq)
		},
		OnTruncated: r.truncated,
	})
	if err != nil {
		c.t.Fatalf("%s follows %s: %v", user, topic, err)
	}
	return s
}

// talk publishes at its pace, one message after the other, each until it is
// acknowledged.
func (c *crowd) talk(s *client.Session, p *pace, topic, user string) {
	for n := 1; p.next(c); n++ {
		m := message{topic, user, n}
		c.messages.begin(m)
		began := time.Now()
		for c.ctx.Err() == nil {
			is, err := s.Publish(c.ctx, topic, "", m, client.PublishOptions{Key: fmt.Sprint(n)})
			if err == nil {
				c.acknowledged(m, is.Seq, began)
				break
			}
			c.failed("publish", err)
			pause(c.ctx, 50*time.Millisecond)
		}
		p.done()
	}
}

// failed counts what had to be done again.
func (c *crowd) failed(what string, err error) {
	if c.ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	code := "refused"
	if err != nil {
		code = string(wire.CodeOf(err))
	}
	c.again[what+" "+code]++
}

// retried returns how often what had to be done again since it was asked last.
func (c *crowd) retried() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	again := c.again
	c.again = map[string]int{}
	return again
}

func (c *crowd) acknowledged(m message, seq int64, began time.Time) {
	c.messages.ack(m, seq)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.longest = max(c.longest, time.Since(began))
	c.flow.note(time.Now())
}

// waited returns the longest wait for an acknowledgement since it was asked last.
func (c *crowd) waited() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	longest := c.longest
	c.longest = 0
	return longest
}

// observe watches who is in a room, on one connection after the other.
func (c *crowd) observe(r *roster, user string) {
	for c.ctx.Err() == nil {
		c.look(r, user)
		pause(c.ctx, 50*time.Millisecond)
	}
}

// look is observe on one connection.
func (c *crowd) look(r *roster, user string) {
	bounded, cancel := context.WithTimeout(c.ctx, 5*time.Second)
	defer cancel()
	conn, err := client.Dial(bounded, c.url, c.options(user))
	if err != nil {
		return
	}
	defer r.blind() // last: no frame is handled any more
	defer conn.Wait()
	defer conn.Abort()
	view := client.NewPresence()
	_, err = conn.Subscribe(bounded, r.topic, client.SubscribeOptions{Presence: "watch", OnPresence: func(f *wire.ServerFrame) {
		view.Apply(f)
		if now := view.Now(); now.Rev > 0 {
			r.show(now.Names())
		}
		if err := view.Err(); err != nil {
			r.contradict(err)
		}
	}})
	if err != nil {
		return
	}
	select {
	case <-conn.Done():
	case <-c.ctx.Done():
	}
}

// unconnected returns how many clients have no connection.
func (c *crowd) unconnected() (n int) {
	for _, s := range c.members {
		if s.State() != client.StateOpen {
			n++
		}
	}
	return n
}

// pace is a rate at which somebody does something: who could not for a while
// catches up.
type pace struct {
	every time.Duration
	mu    sync.Mutex
	due   time.Time
	did   time.Time // up to then all is done
}

func (c *crowd) pace(every time.Duration) *pace {
	p := &pace{every: every, due: time.Now()}
	c.paces = append(c.paces, p)
	return p
}

// next waits until the next is due; false when nothing is any more.
func (p *pace) next(c *crowd) bool {
	p.mu.Lock()
	p.due = p.due.Add(p.every)
	due := p.due
	p.mu.Unlock()
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-timer.C:
		return c.ctx.Err() == nil
	case <-c.enough:
	case <-c.ctx.Done():
	}
	return false
}

// done notes that what was due is done.
func (p *pace) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.did = p.due
}

// behind returns how many have not done all that was due at a time. Nothing is due
// once enough was said.
func (c *crowd) behind(at time.Time) (n int) {
	select {
	case <-c.enough:
		return 0
	default:
	}
	for _, p := range c.paces {
		p.mu.Lock()
		if p.did.Add(p.every).Before(at) {
			n++
		}
		p.mu.Unlock()
	}
	return n
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// problems returns what is wrong whatever happened.
func (c *crowd) problems() (wrong []string) {
	c.mu.Lock()
	wrong, c.refused = c.refused, nil
	c.mu.Unlock()
	for _, r := range c.rosters {
		wrong = append(wrong, r.problems()...)
	}
	return wrong
}
