package integration

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// fault is what becomes of a task when somebody is killed at a step of its attempt.
type fault struct {
	step string
	// attempt is the one that ends it, effects is how often the worker's effect
	// happened, crashes how often its worker was lost. Whoever has the effect once for
	// a key has it once in every case.
	attempt, crashes, effects int
}

// The steps of an attempt: the row says that it runs, and nobody has it; the worker
// has it; the effect has happened; the replica has the result, Postgres does not;
// Postgres has it, and the replica does not know; the worker knows that.
const (
	claimed      = "claimed"
	dispatched   = "dispatched"
	worked       = "worked"
	received     = "received"
	committed    = "committed"
	acknowledged = "acknowledged"
)

// A worker is killed at each step.
func TestTasksWhoseWorkerIsKilled(t *testing.T) {
	t.Parallel()
	s := startFaults(t, pgdev.Test(t), 500*time.Millisecond, false)
	for _, f := range []fault{
		{claimed, 1, 0, 1}, // nobody took it: it waits unharmed
		{dispatched, 2, 1, 1},
		{worked, 2, 1, 2}, // nobody but the sink knows of the first effect
		{received, 1, 0, 1},
		{committed, 1, 0, 1},
		{acknowledged, 1, 0, 1},
	} {
		s.cell(t, f, func(c *faultCell) {
			if f.step == dispatched || f.step == worked { // it has promised to be heard
				hear(t, listen(t, s.nc, "fl.svc.tasks.reply.*."+c.id+".*.*"))
			}
			c.worker.kill()
			c.way.release()
			if f.step == claimed || f.step == dispatched || f.step == worked {
				c.employ()
			}
		})
	}
}

// The replica is killed that has the attempt, and there is another one.
func TestTasksWhoseReplicaIsKilled(t *testing.T) {
	t.Parallel()
	s := startFaults(t, pgdev.Test(t), 8*time.Second, true)
	for _, f := range []fault{
		{claimed, 2, 0, 1}, // at the end of its time, since nobody knows whether a worker has it
		{dispatched, 1, 0, 1},
		{worked, 1, 0, 1},
		{received, 1, 0, 1}, // the worker had no acknowledgement, and says it again
		{committed, 1, 0, 1},
		{acknowledged, 1, 0, 1},
	} {
		s.cell(t, f, func(c *faultCell) {
			first := 0
			if f.step == dispatched || f.step == worked {
				first = s.owner()
			}
			c.replica.kill()
			c.replica, c.way = c.spare, c.spareWay
			if first != 0 { // while its worker works on
				eventually(t, "another replica has the attempt", func() (any, bool) {
					now := s.owner()
					return now, now != first && now != 0
				})
			}
		})
	}
}

// Postgres is killed, and started again.
func TestTasksWhosePostgresIsKilled(t *testing.T) {
	t.Parallel()
	pg := pgdev.TestServer(t)
	// What it has acknowledged outlives a kill, if not a power cut.
	runSQL(t, pg.URL(), `alter database postgres set synchronous_commit = on`)
	s := startFaults(t, pg.URL(), 8*time.Second, false)
	for _, f := range []fault{
		{claimed, 2, 0, 1}, // nobody knows what was claimed: it begins again at the end of its time
		{dispatched, 1, 0, 1},
		{worked, 1, 0, 1},
		{received, 1, 0, 1}, // the replica writes it when Postgres is back
		{committed, 1, 0, 1},
		{acknowledged, 1, 0, 1},
	} {
		s.cell(t, f, func(c *faultCell) {
			killPostgres(t, pg)
			c.way.cut()
			c.goOn() // what it says waits in the replica
			eventually(t, "Postgres is back", func() (any, bool) {
				err := pg.Restart()
				return err, err == nil
			})
		})
	}
}

// NATS goes away with all that it holds, and comes back.
func TestTasksWhoseNATSIsKilled(t *testing.T) {
	t.Parallel()
	s := startFaults(t, pgdev.Test(t), 8*time.Second, false)
	for _, f := range []fault{
		{claimed, 1, 0, 1}, // it can't be handed out: it waits unharmed
		{dispatched, 1, 0, 1},
		{worked, 1, 0, 1},
		{received, 1, 0, 1},
		{committed, 1, 0, 1},
		{acknowledged, 1, 0, 1},
	} {
		s.cell(t, f, func(c *faultCell) {
			s.server.Shutdown()
			eventually(t, "the replica notices", func() (any, bool) {
				_, body := get(t, "http://"+c.admin+"/readyz")
				return body, strings.Contains(body, "NATS is away")
			})
			c.way.release()
			c.goOn() // what it says waits in the worker
			if f.step == received {
				c.kept() // nothing of that needs NATS
			}
			must(t, s.server.Restart())
		})
	}
}

// faults is a stack whose replicas reach Postgres by ways of their own.
type faults struct {
	*taskStack
	server  *natsdev.Server
	replica *process
	way     *valve
	admin   string
	lease   time.Duration // of the workers
	spares  bool          // a replica is there beside
	keeps   string        // the lease of a replica
}

func startFaults(t *testing.T, database string, lease time.Duration, spares bool) *faults {
	t.Helper()
	server := natsdev.Test(t)
	s := &faults{
		taskStack: bareTasksOn(t, server.ClientURL(), database), server: server, admin: "127.0.0.1:" + freePort(t),
		lease: lease, spares: spares, keeps: "15s",
	}
	if spares {
		s.keeps = "5s"
	}
	s.replica, s.way = s.join(t, "FAIRLEAD_ADMIN_ADDR="+s.admin)
	s.answer(1)
	return s
}

// join starts a replica on a way of its own.
func (s *faults) join(t *testing.T, env ...string) (*process, *valve) {
	t.Helper()
	u, err := url.Parse(s.db)
	must(t, err)
	way := startValve(t, u.Host)
	u.Host = way.addr()
	return s.launch(append(env, "FAIRLEAD_POSTGRES_URL="+u.String(), "FAIRLEAD_TASKS_OWNER_LEASE="+s.keeps)...), way
}

// faultCell is one task, at one step.
type faultCell struct {
	*faults
	t        *testing.T
	name     string
	id       string
	row      [16]byte // the id in Postgres
	gate     *gate
	worker   *process
	ready    *question // of the worker: answered, it drains
	drained  *question // it has
	began    *question // of the attempt, where it waits
	spare    *process  // a replica beside, where one is killed
	spareWay *valve
}

// cell brings a task to a step, has somebody killed there, and looks at what becomes
// of the task.
func (s *faults) cell(t *testing.T, f fault, kill func(*faultCell)) {
	t.Helper()
	began := time.Now()
	c := &faultCell{faults: s, t: t, name: taskName(f.step), gate: startGate(t)}
	c.employ()
	c.reach(f.step)
	kill(c)
	c.goOn()
	var got wire.Task
	eventually(t, f.step+": the task ends", func() (any, bool) {
		err := s.call("get", wire.TaskRef{ID: c.id}, &got)
		return fmt.Sprint(got, err), err == nil && got.State.Ended()
	})
	effects := c.gate.had(c.id)
	if got.State != wire.TaskCommitted || string(got.Result) != strconv.Quote(c.did()) || got.Failures != 0 {
		t.Errorf("%s: the task ended as %+v (%+v)", f.step, got, got.Error)
	}
	if got.Attempt != f.attempt || got.Crashes != f.crashes || len(effects) != f.effects {
		t.Errorf("%s: attempt %d ended it, %d crashes, %d effects; want %d, %d, %d", f.step, got.Attempt, got.Crashes, len(effects), f.attempt, f.crashes, f.effects)
	}
	if !slices.IsSorted(effects) || len(slices.Compact(slices.Clone(effects))) != len(effects) || len(effects) > 0 && effects[len(effects)-1] != got.Fence {
		t.Errorf("%s: the effects had the fences %v, the task has %d", f.step, effects, got.Fence)
	}
	c.kept()
	if !c.worker.ended() { // it is told that its result is there
		c.drain()
		c.drained.yes()
		c.worker.exit(patience)
	}
	if t.Failed() {
		t.FailNow()
	}
	t.Logf("%s: attempt %d, fence %d, %d crashes, %d effects, after %s", f.step, got.Attempt, got.Fence, got.Crashes, len(effects), time.Since(began))
}

// did is what the worker returns: it is found among what goes to Postgres.
func (c *faultCell) did() string { return c.name + "-did" }

// reach begins the task and returns when it is at the step.
func (c *faultCell) reach(step string) {
	c.t.Helper()
	var at <-chan struct{}
	if step == claimed {
		at = c.way.haltAt(c.name, back)
	}
	conn, err := pgx.Connect(within(c.t), c.db)
	must(c.t, err)
	defer conn.Close(within(c.t))
	timeout := time.Minute
	if step == claimed {
		timeout = 4 * time.Second // in some cases it is waited for
	}
	must(c.t, conn.QueryRow(within(c.t), `select fairlead.enqueue($1, to_json($2::text), timeout_ms => $3)`, c.name, c.did(), timeout.Milliseconds()).Scan(&c.row))
	c.id = wire.TaskID(c.row).String()
	if step == claimed {
		receive(c.t, at)
		c.runs()
	} else {
		c.began = c.gate.next("began")
	}
	if c.spares {
		c.spare, c.spareWay = c.join(c.t)
		eventually(c.t, "another replica is there", func() (any, bool) { n := c.ping(); return n, n == 2 })
	}
	switch step {
	case worked:
		c.began.yes()
		c.began = c.gate.next("worked")
	case received:
		at = c.way.haltAt(c.did(), there)
		c.goOn()
		receive(c.t, at)
	case committed:
		at = c.way.haltAt(c.did(), back)
		c.goOn()
		receive(c.t, at)
		c.kept()
	case acknowledged:
		c.goOn()
		c.drain()
	}
}

// runs waits until the row says that the task runs.
func (c *faultCell) runs() {
	c.t.Helper()
	eventually(c.t, "the task is claimed", func() (any, bool) {
		n, err := c.look(`select count(*) from fairlead.task where id = $1 and state = 1`, c.row)
		return err, n == 1
	})
}

// employ starts a worker and waits until it takes tasks.
func (c *faultCell) employ() {
	c.t.Helper()
	c.worker = c.startActor(c.name, c.lease, "GATE="+c.gate.addr)
	c.ready = c.gate.next("ready")
}

// goOn lets attempts go on, the one that waits and those to come.
func (c *faultCell) goOn() {
	if c.began != nil {
		c.began.yes()
	}
	c.gate.pass()
}

// drain waits until the worker has ended in order: the service has told it what
// became of all its results.
func (c *faultCell) drain() {
	c.t.Helper()
	if c.drained != nil {
		return
	}
	c.ready.yes()
	c.drained = c.gate.next("drained")
	if got := strings.Join(c.drained.words[1:], " "); got != "<nil>" {
		c.t.Errorf("the worker did not drain: %s", got)
	}
}

// kept waits until the outcome of a task is in Postgres, and looks that it is there
// once.
func (c *faultCell) kept() {
	c.t.Helper()
	eventually(c.t, "the outcome is in Postgres", func() (any, bool) {
		n, err := c.look(`select count(*) from fairlead.task_done where id = $1`, c.row)
		return err, n == 1
	})
	if n, err := c.look(`select count(*) from fairlead.task where id = $1`, c.row); err != nil || n != 0 {
		c.t.Errorf("what has ended is there still: %d rows, %v", n, err)
	}
}

// haltAt stops a direction as soon as text goes there, and closes the channel then:
// with it, where the direction is there; else its answer.
func (v *valve) haltAt(text string, stops flow) <-chan struct{} {
	done := make(chan struct{})
	v.mu.Lock()
	defer v.mu.Unlock()
	v.watch = func(toward flow, b []byte) {
		if toward == there && bytes.Contains(b, []byte(text)) {
			v.stopped[stops], v.watch = true, nil
			close(done)
		}
	}
	return done
}

// runSQL has a database do something.
func runSQL(t *testing.T, url, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(within(t), url)
	must(t, err)
	defer conn.Close(within(t))
	_, err = conn.Exec(within(t), sql, args...)
	must(t, err)
}

// killPostgres kills a server as the system does that has no memory left: what it
// had not written is gone.
func killPostgres(t *testing.T, pg *pgdev.Server) {
	t.Helper()
	conn, err := pgx.Connect(within(t), pg.URL())
	must(t, err)
	defer conn.Close(within(t))
	var dir string
	must(t, conn.QueryRow(within(t), `show data_directory`).Scan(&dir))
	file, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	must(t, err)
	first, _, _ := strings.Cut(string(file), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	must(t, err)
	p, err := os.FindProcess(pid)
	must(t, err)
	must(t, p.Kill())
}
