package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
)

func bearer(jwt string) http.Header { return http.Header{"Authorization": {"Bearer " + jwt}} }

// Who has neither a WebSocket nor a NATS client publishes over HTTP, with a
// token that names the topic or user.
func TestPublishOverHTTP(t *testing.T) {
	t.Parallel()
	g, _ := startDev(t)
	room := dial(t, g.ws(), client.Options{Token: token("ann", nil)})
	messages := subscribe(t, room, "chat.http")
	direct := make(chan client.Message, 4)
	room.Inbox(func(m client.Message) { direct <- m })
	may := bearer(token("cron", map[string]any{"publish": []string{"chat.http"}, "send": []string{"ann"}}))

	if status, text := post(t, g.http("/v1/topics/chat.http?event=tick"), may, `{"n": 1}`); status != http.StatusOK {
		t.Fatalf("publish: %d %s", status, text)
	}
	if m := next(t, messages); m.Event != "tick" || string(m.Data) != `{"n": 1}` || m.From != "cron" {
		t.Errorf("got %+v, want tick {\"n\": 1} from cron", m)
	}
	if status, text := post(t, g.http("/v1/users/ann?topic=notes&event=tick"), may, `2`); status != http.StatusOK {
		t.Fatalf("send: %d %s", status, text)
	}
	if m := receive(t, direct); m.Event != "tick" || string(m.Data) != `2` || m.Topic != "notes" || !m.Direct {
		t.Errorf("got %+v, want a direct tick on notes", m)
	}

	for name, test := range map[string]struct {
		path   string
		header http.Header
		body   string
		status int
		code   string
	}{
		"no token":               {"/v1/topics/chat.http", nil, `1`, 401, "UNAUTHENTICATED"},
		"a bad token":            {"/v1/topics/chat.http", bearer("x.y.z"), `1`, 401, "UNAUTHENTICATED"},
		"a topic not listed":     {"/v1/topics/chat.other", may, `1`, 403, "PERMISSION_DENIED"},
		"a token without lists":  {"/v1/topics/chat.http", bearer(token("ann", nil)), `1`, 403, "PERMISSION_DENIED"},
		"a user not listed":      {"/v1/users/bob", may, `1`, 403, "PERMISSION_DENIED"},
		"a bad topic":            {"/v1/topics/chat..http", may, `1`, 400, "INVALID_ARGUMENT"},
		"a bad event":            {"/v1/topics/chat.http?event=a%20b", may, `1`, 400, "INVALID_ARGUMENT"},
		"a body that is no JSON": {"/v1/topics/chat.http", may, `{`, 400, "INVALID_ARGUMENT"},
		"a large body":           {"/v1/topics/chat.http", may, `"` + strings.Repeat("x", 1_000_000) + `"`, 413, "RESOURCE_EXHAUSTED"},
	} {
		status, text := post(t, g.http(test.path), test.header, test.body)
		if status != test.status || !strings.Contains(text, `"code":"`+test.code+`"`) {
			t.Errorf("%s: got %d %s, want %d %s", name, status, text, test.status, test.code)
		}
	}
	post(t, g.http("/v1/topics/chat.http"), may, `"last"`)
	if m := next(t, messages); string(m.Data) != `"last"` {
		t.Errorf("after the refusals: got %s, want \"last\"", m.Data)
	}
}

func TestPublishOverHTTPIsOffUnlessAskedFor(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	off, on := startGateway(t, server.ClientURL()), startGateway(t, server.ClientURL(), "FAIRLEAD_HTTP_API=true")
	may := bearer(token("cron", map[string]any{"publish": []string{"chat.http"}}))
	if status, text := post(t, off.http("/v1/topics/chat.http"), may, `1`); status != http.StatusNotFound {
		t.Errorf("off: got %d %s, want 404", status, text)
	}
	if status, text := post(t, on.http("/v1/topics/chat.http"), may, `1`); status != http.StatusOK {
		t.Errorf("on: got %d %s, want 200", status, text)
	}
	for _, path := range []string{"/demo", "/demo/token?user=ann", "/metrics", "/debug/pprof/"} {
		if status, _ := get(t, on.http(path)); status != http.StatusNotFound {
			t.Errorf("%s on the public listener of run: got %d, want 404", path, status)
		}
	}
}
