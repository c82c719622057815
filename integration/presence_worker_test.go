package integration

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
)

// join puts a member without a socket on a topic, as a worker does.
func join(t *testing.T, nc *nats.Conn, topic, user, data, ttl string) {
	t.Helper()
	body := fmt.Sprintf(`{"topic":%q,"user":%q,"data":%s,"ttl":%q}`, topic, user, data, ttl)
	if got, code := svc(t, nc, "join", body); code != "" || got != `{}` {
		t.Fatalf("join %s: got %s %s, want {}", body, code, got)
	}
}

// A worker puts users on a topic who have no connection. They stay as long as
// the worker says so.
func TestWorkersJoinMembersWithoutASocket(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 2)
	long := unique("long")
	nc := s.worker()
	var eyes []*observer
	for i := range 2 {
		eyes = append(eyes, watching(t, s.as(i, "eye"), long))
	}
	all := func(check func(*observer)) {
		t.Helper()
		for _, o := range eyes {
			check(o)
		}
	}
	all(func(o *observer) { o.sees() })
	join(t, nc, long, "bot", `{"kind":"bot","token":"x"}`, "1m")
	all(func(o *observer) { o.says("bot", `{"kind":"bot"}`) })
	if got, code := svc(t, nc, "update", `{"topic":"`+long+`","user":"bot","data":{"kind":"cat"}}`); code != "" || got != `{}` {
		t.Errorf("update: got %s %s", code, got)
	}
	all(func(o *observer) { o.says("bot", `{"kind":"cat"}`) })
	rev := eyes[0].view.Now().Rev
	join(t, nc, long, "bot", `{ "kind": "cat" }`, "1m") // again: nobody hears
	join(t, nc, long, "other", `1`, "1m")
	all(func(o *observer) { o.sees("bot", "other") })
	if got := eyes[0].view.Now().Rev; got != rev+1 {
		t.Errorf("%d frames, want one for the other", got-rev)
	}
	for range 2 { // the second finds nobody, which is no error
		if got, code := svc(t, nc, "leave", `{"topic":"`+long+`","user":"bot"}`); code != "" || got != `{}` {
			t.Errorf("leave: got %s %s", code, got)
		}
	}
	all(func(o *observer) { o.sees("other") }) // at once
	if _, code := svc(t, nc, "update", `{"topic":"`+long+`","user":"bot","data":1}`); code != "FAILED_PRECONDITION" {
		t.Errorf("update of nobody: got %q", code)
	}
	if got, _ := svc(t, nc, "online", `{"users":["other"]}`); got != `{"online":{"other":false}}` {
		t.Errorf("online: got %s: being on a topic is not having a connection", got)
	}
}

// A member that nobody renews ends by itself, for everybody.
func TestWorkersMembersExpire(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 1)
	now := unique("now")
	nc := s.worker()
	eye := watching(t, s.as(1, "eye"), now)
	eye.sees()
	begun := time.Now()
	join(t, nc, now, "short", `1`, "1s")
	join(t, nc, now, "kept", `1`, "1s")
	eye.sees("short", "kept")
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for renewing := true; renewing; {
		<-tick.C
		join(t, nc, now, "kept", `1`, "1s")
		now := eye.view.Now()
		if !now.Has("kept") {
			t.Fatal("the one that is renewed has gone")
		}
		renewing = now.Has("short")
		if time.Since(begun) > patience {
			t.Fatal("the one that is not renewed is still there")
		}
	}
	if took := time.Since(begun); took < time.Second {
		t.Errorf("gone after %s, want a second", took)
	}
	if got, _ := svc(t, nc, "count", `{"topic":"`+now+`"}`); got != `{"count":1}` {
		t.Errorf("count: got %s", got)
	}
	eye.sees() // and the other, once nobody renews it
	eventually(t, "the service has forgotten it too", func() (any, bool) {
		got, _ := svc(t, nc, "count", `{"topic":"`+now+`"}`)
		return got, got == `{"count":0}`
	})
}

// Workers that change one member at the same time all succeed, and everybody
// sees the same in the end.
func TestWorkersAtOnce(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 2)
	now := unique("now")
	var eyes []*observer
	for i := range 2 {
		eyes = append(eyes, watching(t, s.as(i, "eye"), now))
	}
	var work sync.WaitGroup
	for w := range 2 {
		nc := s.worker()
		work.Go(func() {
			for i := range 50 {
				body := fmt.Appendf(nil, `{"topic":"`+now+`","user":"bot","data":"%d.%d"}`, w, i)
				msg, err := nc.Request("fl.svc.presence.join", body, patience)
				if err != nil || msg.Header.Get("Nats-Service-Error-Code") != "" {
					t.Errorf("worker %d, join %d: %v %v", w, i, err, msg)
					return
				}
			}
		})
	}
	work.Wait()
	nc := s.worker()
	list, _ := svc(t, nc, "list", `{"topic":"`+now+`"}`)
	eyes[0].sees("bot")
	eventually(t, "both see the same", func() (any, bool) {
		a, b := string(eyes[0].view.Now().Users["bot"].Data), string(eyes[1].view.Now().Users["bot"].Data)
		return a + " " + b + " " + list, a == b && (a == `"0.49"` || a == `"1.49"`)
	})
}

// A worker's renewals don't put its member before the user's own connection.
func TestWorkersMemberBesideAConnection(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 1, 1)
	now := unique("now")
	nc := s.worker()
	eye := watching(t, s.as(0, "eye"), now)
	eye.sees()
	join(t, nc, now, "ann", `"worker"`, "1m")
	eye.says("ann", `"worker"`)
	ann := joining(t, s.as(0, "ann"), now, `"socket"`)
	eye.says("ann", `"socket"`) // the newest speaks
	rev := eye.view.Now().Rev
	join(t, nc, now, "ann", `"worker"`, "1m")
	svc(t, nc, "update", `{"topic":"`+now+`","user":"ann","data":"worker 2"}`)
	join(t, nc, now, "mark", `1`, "1m")
	eye.sees("ann", "mark")
	if now := eye.view.Now(); now.Rev != rev+1 || string(now.Users["ann"].Data) != `"socket"` {
		t.Errorf("after a renewal ann says %s, %d frames later", now.Users["ann"].Data, now.Rev-rev)
	}
	ann.Close(1000)
	eye.says("ann", `"worker 2"`)
	svc(t, nc, "leave", `{"topic":"`+now+`","user":"ann"}`)
	eye.sees("mark")
}

// Requests that can't be served say which field is wrong.
func TestWorkersInput(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 1, 1)
	now := unique("now")
	plain := unique("plain")
	nc := s.worker()
	for _, c := range []struct{ endpoint, body, code string }{
		{"join", `{"topic":"` + now + `","user":"bot","ttl":"soon"}`, "INVALID_ARGUMENT"},
		{"join", `{"topic":"` + now + `","user":"bot","ttl":"999ms"}`, "INVALID_ARGUMENT"},
		{"join", `{"topic":"` + now + `","user":"bot","ttl":"-1s"}`, "INVALID_ARGUMENT"},
		{"join", `{"topic":"` + now + `","user":"bot","ttl":"25h"}`, "INVALID_ARGUMENT"},
		{"join", `{"topic":"` + now + `","user":"bot","ttl":5}`, "INVALID_ARGUMENT"},
		{"join", `{"topic":"` + now + `","user":""}`, "INVALID_ARGUMENT"},
		{"join", `{"topic":"now.>","user":"bot"}`, "INVALID_ARGUMENT"},
		{"join", `{"user":"bot"}`, "INVALID_ARGUMENT"},
		{"join", `not json`, "INVALID_ARGUMENT"},
		{"join", `{"topic":"` + plain + `","user":"bot"}`, "FAILED_PRECONDITION"},
		{"update", `{"topic":"` + now + `","user":"bot","data":1}`, "FAILED_PRECONDITION"},
		{"count", `{"topic":"` + plain + `"}`, "FAILED_PRECONDITION"},
		{"list", `{"topic":"` + now + `","limit":1001}`, "INVALID_ARGUMENT"},
		{"list", `{"topic":"` + now + `","limit":-1}`, "INVALID_ARGUMENT"},
		{"list", `{"topic":"` + now + `","minRev":1000000000}`, "UNAVAILABLE"},
		{"lookup", `{}`, "INVALID_ARGUMENT"},
		{"online", `{"users":["a",""]}`, "INVALID_ARGUMENT"},
		{"join", `{"topic":"` + now + `","user":"bot","future":true}`, ""}, // unknown fields are
		{"leave", `{"topic":"` + now + `","user":"bot"}`, ""},
		{"list", `{"topic":"` + now + `"}`, ""},
		{"lookup", `{"user":"nobody"}`, ""},
	} {
		got, code := svc(t, nc, c.endpoint, c.body)
		if code != c.code {
			t.Errorf("%s %s: got %q %s, want %q", c.endpoint, c.body, code, got, c.code)
		}
	}
	if got, _ := svc(t, nc, "lookup", `{"user":"nobody"}`); got != `{"connections":[]}` {
		t.Errorf("lookup: got %s", got)
	}
}

// Workers hear of everybody who comes to a topic and leaves it, once each.
func TestPresenceEvents(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 1, 2)
	now := unique("now")
	nc := s.worker()
	joined, left := listen(t, nc, "fl.event.presence.joined."+lent("now.>")), listen(t, nc, "fl.event.presence.left."+lent("now.>"))
	const members = 60
	for i := range members {
		join(t, nc, now, fmt.Sprintf("u%d", i), `1`, "1m")
		join(t, nc, now, fmt.Sprintf("u%d", i), `2`, "1m") // no event
	}
	ann := joining(t, s.as(0, "ann"), now, "")
	ann.until("ann is there", func(m client.Members) bool { return m.Has("ann") })
	for i := range members {
		svc(t, nc, "leave", fmt.Sprintf(`{"topic":"`+now+`","user":"u%d"}`, i))
	}
	ann.sees("ann")
	flush(t, nc)
	count := func(of *nats.Subscription) int {
		n, _, err := of.Pending()
		must(t, err)
		return n
	}
	eventually(t, "an event for each", func() (any, bool) {
		got := [2]int{count(joined), count(left)}
		return got, got == [2]int{members + 1, members}
	})
}
