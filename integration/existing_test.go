package integration

import (
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// The variables that name a stack that is there already; doc.go says more.
const (
	varURL      = "FAIRLEAD_URL"
	varNATS     = "FAIRLEAD_NATS_URL"
	varOperator = "FAIRLEAD_TEST_OPERATOR_URL"
)

// guests counts the tests on the stack that is there, and those that are left out.
var guests struct {
	turn sync.Mutex // one test at a time is on the stack: they share their users
	lent bool       // set before any test runs

	mu           sync.Mutex
	ran, leftOut map[string]string // why, by test
}

// existing reports whether the tests are told of a stack that runs already.
func existing() bool { return os.Getenv(varURL) != "" && os.Getenv(varNATS) != "" }

// operatorURL is where operators connect; without credentials all are the same.
func operatorURL() string {
	if u := os.Getenv(varOperator); u != "" {
		return u
	}
	return os.Getenv(varNATS)
}

// visit waits for the test's turn on the stack that is there.
func visit(t *testing.T) *stack {
	t.Helper()
	guests.turn.Lock()
	t.Cleanup(guests.turn.Unlock) // behind those that end its connections
	return arrive(t)
}

// arrive is the stack that is there, on which the test is counted.
func arrive(t *testing.T) *stack {
	t.Helper()
	guests.mu.Lock()
	defer guests.mu.Unlock()
	guests.ran[t.Name()] = ""
	return &stack{t: t, nats: os.Getenv(varNATS), urls: strings.Split(os.Getenv(varURL), ",")}
}

// visitLent is visit for tests that need the rules that are lent.
func visitLent(t *testing.T) *stack {
	t.Helper()
	if !guests.lent {
		leaveOut(t, "need "+varOperator)
	}
	return visit(t)
}

// leaveOut skips a test that cannot run on the stack that is there; that it does
// is said at the end.
func leaveOut(t *testing.T, why string) {
	t.Helper()
	guests.mu.Lock()
	guests.leftOut[t.Name()] = why
	delete(guests.ran, t.Name())
	guests.mu.Unlock()
	t.Skip("left out: such tests " + why)
}

// ownProcesses leaves a test out that starts a stack of its own.
func ownProcesses(t *testing.T) {
	t.Helper()
	if existing() {
		leaveOut(t, "need processes of their own")
	}
}

// onExisting runs the tests on the stack that is there, with its rules lent, and
// says at the end how many were on it.
func onExisting(run func() int) int {
	guests.ran, guests.leftOut = map[string]string{}, map[string]string{}
	giveBack, err := lend()
	switch {
	case err == nil:
		guests.lent = true
	case os.Getenv(varOperator) != "":
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	code := run()
	if guests.lent {
		if err := giveBack(); err != nil {
			fmt.Fprintln(os.Stderr, "integration: give the rules back:", err)
			return 1
		}
	}
	why := map[string]int{}
	for _, reason := range guests.leftOut {
		why[reason]++
	}
	said := fmt.Sprintf("integration: %d tests ran on %s", len(guests.ran), os.Getenv(varURL))
	for _, reason := range []string{"need processes of their own", "need " + varOperator} {
		if n := why[reason]; n > 0 {
			said += fmt.Sprintf("; %d %s and were left out", n, reason)
		}
	}
	fmt.Println(said)
	if len(guests.ran) == 0 && code == 0 {
		fmt.Fprintln(os.Stderr, "integration: none ran on it")
	}
	return code
}

// inbox is the option for a connection to NATS with permissions, where each user
// may hear replies only below a prefix of its own: worker under _INBOX_worker.
func inbox(of string) nats.Option {
	if prefix := inboxPrefix(of); prefix != "" {
		return nats.CustomInboxPrefix(prefix)
	}
	return func(*nats.Options) error { return nil }
}

// inboxPrefix is "" for a URL without a user.
func inboxPrefix(of string) string {
	first, _, _ := strings.Cut(of, ",")
	if u, err := url.Parse(first); err == nil && u.User != nil {
		return "_INBOX_" + u.User.Username()
	}
	return ""
}

// onBus is the environment in which the tools talk to NATS.
func (s *stack) onBus(natsURL string) []string {
	if !existing() {
		natsURL = s.nats
	}
	return []string{"FAIRLEAD_NATS_URL=" + natsURL, "FAIRLEAD_NATS_INBOX_PREFIX=" + inboxPrefix(natsURL)}
}

// operator returns a connection that may do what operators do.
func (s *stack) operator() *nats.Conn {
	s.t.Helper()
	if existing() {
		return connect(s.t, operatorURL())
	}
	return s.worker()
}

// size is how many gateways there are.
func (s *stack) size() int {
	s.t.Helper()
	if s.gateways != nil {
		return len(s.gateways)
	}
	return askGateway[wire.Top](s.t, s.operator(), "top", `{}`).Gateways
}

// beside connects a user to the gateway that c is on, whatever stands before it.
func (s *stack) beside(c *client.Client, user string) *client.Client {
	s.t.Helper()
	for range 50 {
		other := s.as(0, user)
		if other.Welcome().Gateway == c.Welcome().Gateway {
			return other
		}
		other.Close(wire.CloseNormal)
		other.Wait()
		s.as(0, "weight") // the next one may be sent elsewhere
	}
	s.t.Fatal("no connection beside another one")
	panic("unreachable")
}

// The stacks below are the one that is there with its rules lent, else what the
// function of nearly the same name starts.

func openStack(t *testing.T, gateways int) *stack {
	t.Helper()
	if existing() {
		return visitLent(t)
	}
	return newStack(t, gateways)
}

func anyPresence(t *testing.T, gateways, replicas int, env ...string) *stack {
	t.Helper()
	if existing() {
		return visitLent(t)
	}
	s, _ := presenceStack(t, gateways, replicas, env...)
	return s
}

func anyCursors(t *testing.T, gateways int) *stack {
	t.Helper()
	if existing() {
		return visitLent(t)
	}
	return cursorStack(t, gateways)
}

func anyReplayed(t *testing.T, size, gateways int) *stack {
	t.Helper()
	if existing() {
		return visitLent(t)
	}
	return replayed(t, natsdev.Test(t), size, gateways)
}

func anyDev(t *testing.T) *stack {
	t.Helper()
	if existing() {
		return visitLent(t)
	}
	g, natsURL := startDev(t)
	return &stack{t: t, nats: natsURL, gateways: []*gateway{g}, urls: []string{g.ws()}}
}

func anyRated(t *testing.T, gateways int, rules string) *rated {
	t.Helper()
	if existing() {
		return &rated{stack: visitLent(t)}
	}
	return ratedStack(t, gateways, rules)
}

// anySessions is a worker's connection to where sessions are.
func anySessions(t *testing.T, replicas int) *nats.Conn {
	t.Helper()
	if existing() {
		return visit(t).worker()
	}
	url := natsdev.Test(t).ClientURL()
	sessionReplicas(t, url, replicas)
	return connect(t, url)
}

func anyTasks(t *testing.T, replicas int, env ...string) *taskStack {
	t.Helper()
	if existing() {
		return visitTasks(t)
	}
	return startTasks(t, replicas, env...)
}

func anyBareTasks(t *testing.T, replicas int) *taskStack {
	t.Helper()
	if existing() {
		return visitTasks(t)
	}
	return bareTasks(t, replicas)
}

func anyLocks(t *testing.T, replicas int) *taskStack {
	t.Helper()
	if existing() {
		return visitTasks(t)
	}
	return startLockTasks(t, replicas)
}

// visitTasks does not wait for a turn: the tests of tasks have no users, and their
// parallel parts would wait for others behind them.
func visitTasks(t *testing.T) *taskStack {
	t.Helper()
	s := &taskStack{stack: arrive(t)}
	s.nc = s.worker()
	return s
}
