//go:build unix

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/pgdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const bridgeRules = `
bridges:
  - {channel: table_changes, topics: ["db.>"]}
topics:
  - {match: "db.>", subscribe: user, publish: none}
`

// bridgeStack is two replicas of the tasks service that bridge a database with the
// triggers of docs/bridge.md, and a browser that looks at a table.
type bridgeStack struct {
	*taskStack
	pg   *pgx.Conn
	rows int // inserted so far: their ids are 1 to rows
	seen []int
	sub  *client.Subscription
}

func startBridge(t *testing.T) *bridgeStack {
	t.Helper()
	s := &taskStack{stack: stackOn(t, natsdev.Test(t).ClientURL(), 1, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, bridgeRules))}
	url := pgdev.Test(t)
	s.db = strings.Replace(url, "@", ":"+dbPassword+"@", 1)
	s.nc = s.worker()
	s.launch()
	s.launch()
	pg, err := pgx.Connect(within(t), url)
	must(t, err)
	t.Cleanup(func() { pg.Close(t.Context()) })
	b := &bridgeStack{taskStack: s, pg: pg, sub: subscribe(t, s.as(0, "ann"), "db.orders")}
	b.exec(`create table orders (id int); create table invoices (id int)`)
	eventually(t, "the tables are there", func() (any, bool) {
		var there bool
		must(t, pg.QueryRow(within(t), `select to_regclass('fairlead.bridge_topic') is not null`).Scan(&there))
		return nil, there
	})
	for _, sql := range bridgeSQL(t) {
		b.exec(sql)
	}
	return b
}

// bridgeSQL is the SQL of docs/bridge.md.
func bridgeSQL(t *testing.T) (all []string) {
	t.Helper()
	page, err := os.ReadFile("../docs/bridge.md")
	must(t, err)
	for _, m := range regexp.MustCompile("(?ms)^```sql\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		if strings.HasPrefix(m[1], "create") {
			all = append(all, m[1])
		}
	}
	if len(all) != 4 {
		t.Fatalf("got %d statements from docs/bridge.md, want 4", len(all))
	}
	return all
}

func (b *bridgeStack) exec(sql string, args ...any) {
	b.t.Helper()
	_, err := b.pg.Exec(within(b.t), sql, args...)
	must(b.t, err)
}

// insert adds a row.
func (b *bridgeStack) insert() {
	b.t.Helper()
	b.rows++
	b.exec(`insert into orders values ($1)`, b.rows)
}

// heard takes the next message: the id of a row that was inserted, or -1 for a gap.
func (b *bridgeStack) heard() int {
	b.t.Helper()
	m := next(b.t, b.sub)
	n := -1
	switch m.Event {
	case "insert":
		var row struct{ ID int }
		must(b.t, json.Unmarshal(m.Payload(), &row))
		n = row.ID
	case wire.EventBridgeGap:
		var gap wire.BridgeGap
		must(b.t, json.Unmarshal(m.Payload(), &gap))
		if gap.Channel != "table_changes" || gap.Reason != "takeover" || gap.SinceMs == 0 || gap.At < gap.SinceMs {
			b.t.Errorf("gap %+v, want one of a takeover that says since when", gap)
		}
	default:
		b.t.Fatalf("event %q", m.Event)
	}
	b.seen = append(b.seen, n)
	return n
}

// settle inserts rows until the last one comes.
func (b *bridgeStack) settle() {
	b.t.Helper()
	b.insert()
	for b.heard() != b.rows {
		continue
	}
}

// listener is the replica that listens.
func (b *bridgeStack) listener() *process {
	b.t.Helper()
	var pid int
	eventually(b.t, "a replica listens", func() (any, bool) {
		err := b.pg.QueryRow(within(b.t), `select coalesce(max(client_port), 0) from pg_stat_activity join pg_locks l using (pid)
			where l.locktype = 'advisory' and application_name = 'fairlead bridge' and datname = current_database()`).Scan(&pid)
		return err, err == nil && pid > 0
	})
	for _, p := range b.replicas {
		if !p.ended() && strings.Contains(p.stderr.String(), `"bridge listens"`) {
			return p
		}
	}
	b.t.Fatal("no replica says that it listens")
	return nil
}

// check is whether what came on the topic is what was promised: each row once, in
// order, and where one is missing a gap before the next.
func (b *bridgeStack) check() {
	b.t.Helper()
	last, gap := 0, false
	for _, n := range b.seen {
		if n == -1 {
			gap = true
			continue
		}
		if n <= last || n != last+1 && !gap {
			b.t.Fatalf("row %d behind %d, a gap between: %v; got %v", n, last, gap, b.seen)
		}
		last, gap = n, false
	}
}

// A browser hears each change of a row once. The listener is killed: it hears that
// changes may be missing, and then the later ones.
func TestBridge(t *testing.T) {
	t.Parallel()
	b := startBridge(t)
	first := b.listener()
	b.settle()
	b.exec(`update orders set id = 100 where id = 1`)
	b.exec(`delete from orders where id = 100`)
	for _, want := range []string{"update", "delete"} {
		if m := next(t, b.sub); m.Event != want || string(m.Payload()) != `{"id" : 100}` {
			t.Errorf("got %s %s, want %s of row 100", m.Event, m.Payload(), want)
		}
	}
	_, err := b.pg.Exec(within(t), `begin; insert into orders values (-1); rollback`)
	must(t, err)
	b.settle()
	first.kill()
	cut := time.Now()
	b.resume()
	t.Logf("changes came again after %s", time.Since(cut).Round(time.Millisecond))
	if !slices.Contains(b.seen, -1) {
		t.Errorf("got %v, want a gap", b.seen)
	}
	b.check()

	// The other way, which loses nothing.
	b.exec(`insert into invoices values (7)`)
	var input string
	must(t, b.pg.QueryRow(within(t), `select input from fairlead.task where name = 'changes.publish'`).Scan(&input))
	if want := `{"topic" : "db.invoices", "event" : "insert", "data" : {"id" : 7}}`; input != want {
		t.Errorf("the task's input is %s, want %s", input, want)
	}
}

// resume inserts rows until changes come again.
func (b *bridgeStack) resume() {
	b.t.Helper()
	came := make(chan error, 1)
	go func() {
		ctx := within(b.t)
		m, err := b.sub.Next(ctx)
		if err == nil && m.Event != wire.EventBridgeGap {
			err = fmt.Errorf("event %q, want a gap", m.Event)
		}
		came <- err
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-came:
			must(b.t, err)
			b.seen = append(b.seen, -1)
			b.settle()
			return
		case <-tick.C:
			b.insert()
		}
	}
}

// A listener that stands still, and then goes on with what was waiting for it, does
// not publish it beside the one that has taken over.
func TestBridgeFrozen(t *testing.T) {
	t.Parallel()
	b := startBridge(t)
	first := b.listener()
	b.settle()
	must(t, first.cmd.Process.Signal(syscall.SIGSTOP))
	t.Cleanup(func() { _ = first.cmd.Process.Signal(syscall.SIGCONT) })
	b.resume()
	must(t, first.cmd.Process.Signal(syscall.SIGCONT))
	first.line(first.stderr, `"bridge goes on"`)
	for range 5 {
		b.settle()
	}
	b.check()
}
