package integration

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// taskStack is a NATS server, a gateway and replicas of the tasks service on a
// database of the test.
type taskStack struct {
	*stack
	db       string // the URL of the database, with a password
	nc       *nats.Conn
	replicas []*process
}

// of is the stack as one of several tests sees it that share it, with a connection
// of its own.
func (s *taskStack) of(t *testing.T) *taskStack {
	one, shared := *s, *s.stack
	shared.t, one.stack = t, &shared
	one.nc = one.worker()
	return &one
}

// startTasks starts so many replicas, and waits until all answer.
func startTasks(t *testing.T, replicas int, env ...string) *taskStack {
	t.Helper()
	s := tasksOn(t, pgdev.Test(t))
	for range replicas {
		s.launch(env...)
	}
	s.answer(replicas)
	return s
}

// tasksOn starts a NATS server and a gateway; the replicas are to come.
func tasksOn(t *testing.T, database string) *taskStack {
	t.Helper()
	s := &taskStack{stack: newStack(t, 1), db: strings.Replace(database, "@", ":"+dbPassword+"@", 1)}
	s.nc = s.worker()
	return s
}

// bareTasksOn is tasksOn without a gateway, on NATS servers that are there.
func bareTasksOn(t *testing.T, natsURL, database string) *taskStack {
	t.Helper()
	s := &taskStack{stack: &stack{t: t, nats: natsURL}, db: strings.Replace(database, "@", ":"+dbPassword+"@", 1)}
	s.nc = s.worker()
	return s
}

// bareTasks is startTasks without a gateway.
func bareTasks(t *testing.T, replicas int, env ...string) *taskStack {
	t.Helper()
	s := bareTasksOn(t, natsdev.Test(t).ClientURL(), pgdev.Test(t))
	for range replicas {
		s.launch(env...)
	}
	s.answer(replicas)
	return s
}

// launch starts one more replica, which need not be ready.
func (s *taskStack) launch(env ...string) *process {
	s.t.Helper()
	env = append([]string{
		"FAIRLEAD_NATS_URL=" + s.nats, "FAIRLEAD_POSTGRES_URL=" + s.db, "FAIRLEAD_ADMIN_ADDR=off", "FAIRLEAD_LOG_FORMAT=json",
		"FAIRLEAD_TASKS_POOL=6", // the tests share one server
	}, env...)
	p := start(s.t, "tasks "+strconv.Itoa(len(s.replicas)), env, "run", "tasks")
	s.replicas = append(s.replicas, p)
	s.t.Cleanup(func() {
		if strings.Contains(p.stderr.String()+p.stdout.String(), dbPassword) {
			s.t.Error("the replica has written the password of its database")
		}
	})
	return p
}

// answer waits until so many replicas are there and can keep tasks.
func (s *taskStack) answer(replicas int) {
	s.t.Helper()
	eventually(s.t, "all replicas are there", func() (any, bool) {
		n := s.ping()
		return n, n == replicas
	})
	eventually(s.t, "tasks are kept", func() (any, bool) {
		// Not all of them are asked: those that are on the server can count, or are late
		// by what a replica waits for at its start.
		for range 2 * replicas {
			if err := s.call("counts", wire.TaskName{}, nil); err != nil {
				return err, false
			}
		}
		return nil, true
	})
}

// ping counts the replicas that NATS knows.
func (s *taskStack) ping() (n int) {
	s.t.Helper()
	inbox := s.nc.NewInbox()
	sub, err := s.nc.SubscribeSync(inbox)
	must(s.t, err)
	defer func() { must(s.t, sub.Unsubscribe()) }()
	must(s.t, s.nc.PublishRequest("$SRV.PING.fairlead-tasks", inbox, nil))
	for {
		m, err := sub.NextMsg(100 * time.Millisecond)
		if err != nil || len(m.Data) == 0 {
			return n
		}
		n++
	}
}

// call asks an endpoint; the error is what it answers, or that nobody does.
func (s *taskStack) call(endpoint string, req, reply any) error {
	s.t.Helper()
	body, err := json.Marshal(req)
	must(s.t, err)
	return s.raw(endpoint, string(body), reply)
}

// raw is call with JSON as it stands, as `nats req` sends it.
func (s *taskStack) raw(endpoint, body string, reply any) error {
	s.t.Helper()
	m, err := s.nc.Request("fl.svc.tasks."+endpoint, []byte(body), patience)
	if err != nil {
		return err
	}
	if e := wire.ParseErrorHeader(m.Header, m.Data); e != nil {
		var body struct{ Details map[string]any }
		if len(m.Data) > 0 {
			must(s.t, json.Unmarshal(m.Data, &body))
		}
		e.Details = body.Details
		return e
	}
	if reply != nil {
		must(s.t, json.Unmarshal(m.Data, reply))
	}
	return nil
}

// askTasks is call where no error is expected.
func askTasks[T any](s *taskStack, endpoint, body string) (reply T) {
	s.t.Helper()
	if err := s.raw(endpoint, body, &reply); err != nil {
		s.t.Fatalf("%s %s: %v", endpoint, body, err)
	}
	return reply
}

// enqueue stores a task and returns its id.
func (s *taskStack) enqueue(body string) string {
	s.t.Helper()
	return askTasks[wire.TaskEnqueued](s, "enqueue", body).ID
}

// task returns a task as it is.
func (s *taskStack) task(id string) wire.Task {
	s.t.Helper()
	return askTasks[wire.Task](s, "get", `{"id":"`+id+`"}`)
}

// end waits for the end of a task.
func (s *taskStack) end(id string) wire.Task {
	s.t.Helper()
	return askTasks[wire.Task](s, "await", `{"id":"`+id+`","timeout":"25s"}`)
}

// wants waits for the end of a task and compares its state.
func (s *taskStack) wants(id string, want wire.TaskState) wire.Task {
	s.t.Helper()
	got := s.end(id)
	if got.State != want {
		s.t.Fatalf("task %s is %s (%+v), want %s", id, got.State, got.Error, want)
	}
	return got
}

// becomes waits until a task is in a state that is no end.
func (s *taskStack) becomes(id string, want wire.TaskState) (got wire.Task) {
	s.t.Helper()
	eventually(s.t, "task "+id+" is "+string(want), func() (any, bool) {
		got = s.task(id)
		return got.State, got.State == want
	})
	return got
}

// serves answers the attempts of a name as a worker in any language does: with
// the bytes that fn returns. It serves until the test ends.
func (s *taskStack) serves(name string, fn func(*nats.Msg) string) *nats.Subscription {
	s.t.Helper()
	return s.takes(name, func(m *nats.Msg) { _ = m.Respond([]byte(fn(m))) }) // nobody may be left to hear it
}

// takes hands the attempts of a name to fn, one at a time.
func (s *taskStack) takes(name string, fn func(*nats.Msg)) *nats.Subscription {
	s.t.Helper()
	sub, err := s.nc.QueueSubscribe("fl.task."+name, "workers", fn)
	must(s.t, err)
	flush(s.t, s.nc)
	return sub
}

// attempts collects the attempts of a name without answering.
func (s *taskStack) attempts(name string) <-chan *nats.Msg {
	s.t.Helper()
	taken := make(chan *nats.Msg, 1000)
	s.takes(name, func(m *nats.Msg) { taken <- m })
	return taken
}

// failsWith is the reply of a worker that fails.
func failsWith(m *nats.Msg, code wire.Code, text string, more nats.Header) {
	reply := nats.NewMsg(m.Reply)
	wire.ErrorHeader(reply.Header, wire.Errorf(code, "%s", text))
	for name, values := range more {
		reply.Header[name] = values
	}
	_ = m.RespondMsg(reply) // nobody may be left to hear it
}

// attemptOf is what a worker names an attempt by, as JSON without braces.
func attemptOf(m *nats.Msg) string {
	return `"id":"` + m.Header.Get(wire.HeaderTaskID) + `","fence":` + m.Header.Get(wire.HeaderTaskFence) + `,"token":"` + m.Header.Get(wire.HeaderTaskToken) + `"`
}

// look asks the database for a number.
func (s *taskStack) look(query string, args ...any) (n int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.db)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
	return n, conn.QueryRow(ctx, query, args...).Scan(&n)
}
