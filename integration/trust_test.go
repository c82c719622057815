package integration

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
)

// A worker that asks a connection can't have the answer published where it may
// not publish itself.
func TestRepliesGoToInboxesOnly(t *testing.T) {
	t.Parallel()
	s := anyStack(t, 1)
	ann := s.as(0, "ann")
	var asked atomic.Int64
	ann.Serve("confirm", func(context.Context, client.Request) (any, error) {
		asked.Add(1)
		return json.RawMessage(`"yes"`), nil
	})
	victim := s.as(0, "victim")
	worker := s.worker()
	topic := unique("forged")
	forbidden := []string{
		"fl.topic." + topic, "fl.control.conn." + victim.Welcome().Conn, "fl.user.victim", "fl.event.forged",
		"$JS.API.STREAM.PURGE.X", "$SYS.REQ.USER.INFO", "_INBOXES.a", "inbox.a", "_inbox.a", "$KV.fl_config.rules",
	}
	// One connection hears all of it: what was published before the good answer
	// is there before it.
	spies := map[string]*nats.Subscription{}
	for _, subject := range forbidden {
		if heard := strings.HasPrefix(subject, "fl.topic.") || strings.HasPrefix(subject, "fl.event."); heard || !existing() {
			spies[subject] = listen(t, worker, subject) // elsewhere a worker may not listen: that nobody is asked shows it
		}
	}
	ask := func(reply string) {
		msg := nats.NewMsg("fl.conn." + ann.Welcome().Conn)
		msg.Reply = reply
		msg.Header.Set("Fl-Event", "confirm")
		must(t, worker.PublishMsg(msg))
	}
	for _, reply := range forbidden {
		ask(reply)
	}
	inbox := worker.NewInbox()
	good := listen(t, worker, inbox)
	ask(inbox)
	if got := string(hear(t, good).Data); got != `"yes"` {
		t.Fatalf("the answer to an inbox: got %s, want \"yes\"", got)
	}
	flush(t, worker)
	for subject, spy := range spies {
		if n, _, err := spy.Pending(); err != nil || n != 0 {
			t.Errorf("%d messages were published to %s (%v), want none", n, subject, err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the client was asked %d times, want once", n)
	}
}

// What a client says of itself in its frames never becomes a header: workers
// can believe Fl-User and Fl-Conn.
func TestClientsCannotForgeHeaders(t *testing.T) {
	t.Parallel()
	g, natsURL := startDev(t)
	worker := connect(t, natsURL)
	forged := map[string]string{
		"Fl-User": "root", "fl-user": "root", "Fl-Conn": "x", "Fl-Exclude": "x", "Fl-Attributes": `{"role":"admin"}`,
		"Nats-Msg-Id": "1", "Nats-Rollup": "all", "Nats-TTL": "1s", "user": "root", "conn": "x", "from": "root", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
	header := http.Header{}
	members := map[string]any{"headers": forged, "header": forged}
	for name, value := range forged {
		header.Set(name, value)
		members[name] = value
	}
	ann := dial(t, g.ws(), client.Options{Token: token("ann", map[string]any{"attributes": map[string]string{"org": "7"}}), Header: header})
	with := func(fields map[string]any) map[string]any {
		for name, value := range members {
			if _, has := fields[name]; !has {
				fields[name] = value
			}
		}
		return fields
	}
	conn := ann.Welcome().Conn

	spy := listen(t, worker, "fl.topic.chat.forged")
	_, err := ann.Request(within(t), "publish", with(map[string]any{"topic": "chat.forged", "event": "said", "data": 1, "echo": false}))
	must(t, err)
	sameHeaders(t, "a publish", hear(t, spy), nats.Header{"Fl-Event": {"said"}, "Fl-User": {"ann"}, "Fl-Conn": {conn}, "Fl-Exclude": {conn}})

	_, err = ann.Request(within(t), "batch", map[string]any{"messages": []any{with(map[string]any{"topic": "chat.forged", "event": "said", "data": 2})}})
	must(t, err)
	sameHeaders(t, "a batch", hear(t, spy), nats.Header{"Fl-Event": {"said"}, "Fl-User": {"ann"}, "Fl-Conn": {conn}})

	calls := listen(t, worker, "fl.call.forged.call")
	answered := make(chan error, 1)
	go func() {
		_, err := ann.Request(within(t), "call", with(map[string]any{"method": "forged.call", "data": 3}))
		answered <- err
	}()
	call := hear(t, calls)
	if reply := call.Reply; !strings.HasPrefix(reply, "_INBOX.") {
		t.Errorf("the call's reply subject is %s, want an inbox", reply)
	}
	must(t, call.Respond([]byte(`4`)))
	must(t, receive(t, answered))
	if !regexp.MustCompile(`^\d{13}$`).MatchString(call.Header.Get("Fl-Deadline")) {
		t.Errorf("Fl-Deadline: got %q, want epoch milliseconds", call.Header.Get("Fl-Deadline"))
	}
	if !strings.HasPrefix(call.Header.Get("Fl-Cancel"), "fl.") {
		t.Errorf("Fl-Cancel: got %q, want a subject", call.Header.Get("Fl-Cancel"))
	}
	sameHeaders(t, "a call", call, nats.Header{
		"Fl-User": {"ann"}, "Fl-Conn": {conn}, "Fl-Attributes": {`{"org":"7"}`},
		"Fl-Deadline": call.Header["Fl-Deadline"], "Fl-Cancel": call.Header["Fl-Cancel"],
	})

	delete(header, "Traceparent") // of an HTTP request it does count
	header.Set("Authorization", "Bearer "+token("ann", map[string]any{"publish": []string{"chat.forged"}}))
	status, text := post(t, g.http("/v1/topics/chat.forged?event=said&user=root&Fl-User=root"), header, `5`)
	if status != http.StatusOK {
		t.Fatalf("HTTP publish: %d %s", status, text)
	}
	sameHeaders(t, "an HTTP publish", hear(t, spy), nats.Header{"Fl-Event": {"said"}, "Fl-User": {"ann"}})
}

func sameHeaders(t *testing.T, what string, m *nats.Msg, want nats.Header) {
	t.Helper()
	if diff := cmp.Diff(want, m.Header); diff != "" {
		t.Errorf("headers of %s (-want +got):\n%s", what, diff)
	}
}

func post(t *testing.T, url string, header http.Header, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	must(t, err)
	if header != nil {
		req.Header = header.Clone()
	}
	resp, err := web.Do(req)
	must(t, err)
	return resp.StatusCode, readAll(t, resp)
}
