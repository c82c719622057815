package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
)

// actor is set in the environment of a worker: the test binary, started again as a
// process that can be killed. Its value is the name whose tasks it does.
const actor = "FAIRLEAD_TEST_ACTOR"

// act is the life of that process. What it does with a task is said by the sink that
// its environment names: a database, or else the gate of the test.
func act(name string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "actor:", err)
		return 1
	}
	nc, err := nats.Connect(os.Getenv("NATS_URL"), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		return fail(err)
	}
	defer nc.Close()
	f := fairlead.New(nc, fairlead.Options{})
	defer f.Close()
	lease, err := time.ParseDuration(os.Getenv("LEASE"))
	if err != nil {
		return fail(err)
	}
	slots, _ := strconv.Atoi(os.Getenv("SLOTS")) // none: the default
	asks := gated(os.Getenv("GATE"))
	do := asks.attempt
	if url := os.Getenv("SINK"); url != "" {
		if do, err = sinking(f, url); err != nil {
			return fail(err)
		}
	}
	w, err := fairlead.Work(f, name, do, fairlead.WorkOptions{Lease: lease, Concurrency: slots})
	if err != nil {
		return fail(err)
	}
	if asks == "" {
		fmt.Println("ready")
		select {} // until it is killed
	}
	if _, err := asks.ask("ready"); err != nil { // answered when there is nothing more to do
		return fail(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = asks.ask("drained", fmt.Sprint(w.Drain(ctx)))
	if err != nil {
		return fail(err)
	}
	return 0
}

// gated is where an actor asks its test whether it may go on.
type gated string

// ask returns the answer.
func (g gated) ask(words ...string) (string, error) {
	conn, err := net.Dial("tcp", string(g))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, strings.Join(words, " ")); err != nil {
		return "", err
	}
	return bufio.NewReader(conn).ReadString('\n')
}

// attempt does a task: it has its effect between two questions.
func (g gated) attempt(ctx context.Context, a *fairlead.Attempt, did string) (json.RawMessage, error) {
	fence := strconv.FormatInt(a.Fence(), 10)
	for _, question := range []string{"began", "effect", "worked"} {
		if _, err := g.ask(question, a.IdempotencyKey(), fence); err != nil {
			return nil, err
		}
	}
	return json.Marshal(did)
}

// gate answers the actors of a test, and is the sink of their effects.
type gate struct {
	t     *testing.T
	addr  string
	asked map[string]chan *question // by their first word

	mu      sync.Mutex // guards what follows
	conns   []net.Conn
	passes  bool               // attempts may go on
	effects map[string][]int64 // fences by idempotency key, in the order in which they came
}

// question is one that waits for its answer.
type question struct {
	words []string
	conn  net.Conn
}

// yes lets the actor go on, which may have been killed by now.
func (q *question) yes() { _, _ = fmt.Fprintln(q.conn, "yes") }

func startGate(t *testing.T) *gate {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	g := &gate{t: t, addr: listener.Addr().String(), asked: map[string]chan *question{}, effects: map[string][]int64{}}
	for _, word := range []string{"ready", "began", "worked", "drained"} {
		g.asked[word] = make(chan *question, 100)
	}
	var accepting, wg sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			g.mu.Lock()
			g.conns = append(g.conns, conn)
			g.mu.Unlock()
			wg.Go(func() { g.hear(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		accepting.Wait()
		for _, conn := range g.conns {
			conn.Close()
		}
		wg.Wait()
	})
	return g
}

// hear takes a question: an effect is noted at once, the rest is the test's.
func (g *gate) hear(conn net.Conn) {
	line, err := bufio.NewReader(conn).ReadString('\n')
	words := strings.Fields(line)
	if err != nil || len(words) == 0 {
		return
	}
	q := &question{words: words, conn: conn}
	if words[0] != "effect" {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.passes && (words[0] == "began" || words[0] == "worked") {
			q.yes()
		} else {
			g.asked[words[0]] <- q
		}
		return
	}
	fence, err := strconv.ParseInt(words[2], 10, 64)
	if err != nil {
		g.t.Errorf("an effect of the fence %s", words[2])
	}
	g.mu.Lock()
	g.effects[words[1]] = append(g.effects[words[1]], fence)
	g.mu.Unlock()
	q.yes()
}

// next returns the next question that begins with a word.
func (g *gate) next(word string) *question {
	g.t.Helper()
	select {
	case q := <-g.asked[word]:
		return q
	case <-time.After(patience):
		g.t.Fatalf("no actor has asked %q", word)
		panic("unreachable")
	}
}

// pass lets attempts go on from now on, wherever they are.
func (g *gate) pass() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.passes = true
	for _, waiting := range []chan *question{g.asked["began"], g.asked["worked"]} {
		for len(waiting) > 0 {
			(<-waiting).yes()
		}
	}
}

// had returns the fences with which there was an effect for a key.
func (g *gate) had(key string) []int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.effects[key]
}

// startActor starts a worker of a name, which promises to be heard within a lease.
func (s *taskStack) startActor(name string, lease time.Duration, env ...string) *process {
	s.t.Helper()
	self, err := os.Executable()
	must(s.t, err)
	return startProgram(s.t, "worker", append([]string{
		actor + "=" + name, "NATS_URL=" + s.nats, "LEASE=" + lease.String(),
		"GORACE=halt_on_error=1 exitcode=66 atexit_sleep_ms=0",
	}, env...), self)
}
