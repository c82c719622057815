package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// crowd has a worker join many members, as fast as they are taken.
func crowd(t *testing.T, nc *nats.Conn, topic string, many int, data string) {
	t.Helper()
	const atOnce = 256
	inbox := nc.NewRespInbox()
	answers, err := nc.SubscribeSync(inbox)
	must(t, err)
	must(t, answers.SetPendingLimits(-1, -1))
	sent, waiting := 0, 0
	for sent < many || waiting > 0 {
		for sent < many && waiting < atOnce {
			must(t, nc.PublishRequest("fl.svc.presence.join", inbox, fmt.Appendf(nil, `{"topic":%q,"user":"u%05d","data":%s,"ttl":"10m"}`, topic, sent, data)))
			sent, waiting = sent+1, waiting+1
		}
		msg, err := answers.NextMsg(patience)
		must(t, err)
		if code := msg.Header.Get("Nats-Service-Error-Code"); code != "" {
			t.Fatalf("join: %s %s", code, msg.Data)
		}
		waiting--
	}
	must(t, answers.Unsubscribe())
}

// A state that is larger than a frame may be comes in several, as fast as the
// connection takes them, and what changes meanwhile is not lost.
func TestLargeStateIsPaced(t *testing.T) {
	s, _ := presenceStack(t, 2, 2)
	nc := s.worker()
	const many = 1200
	data := `"` + strings.Repeat("x", 3000) + `"` // 3.5 MB in all: more than a connection may have queued
	crowd(t, nc, "now.a", many, data)
	for round := range 2 {
		p := newPeer(t, s.url(round), "slow")
		p.send(`{"op":"subscribe","id":2,"topic":"now.a","presence":"watch"}`)
		p.hears(2)
		// While it reads nothing, members change.
		changed := fmt.Sprintf(`"changed %d"`, round)
		for i := range 5 {
			join(t, nc, "now.a", fmt.Sprintf("u%05d", i*100), changed, "10m")
			join(t, nc, "now.a", fmt.Sprintf("new%d%d", round, i), `1`, "10m")
		}
		svc(t, nc, "leave", fmt.Sprintf(`{"topic":"now.a","user":"u%05d"}`, 1100+round))
		view := client.NewPresence()
		pages, rev := 0, int64(0)
		for !complete(view.Now(), round, changed) {
			_, raw, err := p.ws.Read(within(t))
			if err != nil {
				t.Fatalf("after %d pages: %v (close %d)", pages, err, websocket.CloseStatus(err))
			}
			frames, err := wire.DecodeServer(raw)
			must(t, err)
			for _, f := range frames {
				if f.State != nil {
					pages++
					if len(raw) > 300<<10 {
						t.Errorf("a frame of %d bytes", len(raw))
					}
					if pages == 1 {
						rev = f.Rev
						if !f.More {
							t.Errorf("the first page is the last: %d members", len(f.State))
						}
					} else if f.Rev < rev {
						t.Errorf("a page of rev %d behind rev %d", f.Rev, rev)
					}
				}
				view.Apply(&f)
			}
			must(t, view.Err())
		}
		if pages < 10 {
			t.Errorf("%d pages for 3.5 MB", pages)
		}
		if got := list(t, s.as(round, "other"), `{"topic":"now.a","limit":1}`); got.Count != len(view.Now().Users) {
			t.Errorf("%d members seen, %d listed", len(view.Now().Users), got.Count)
		}
	}
}

// complete reports whether a view has what the large state's test changed.
func complete(m client.Members, round int, changed string) bool {
	if m.Rev == 0 || m.Has(fmt.Sprintf("u%05d", 1100+round)) || len(m.Users) != 1200-(round+1)+5*(round+1) {
		return false
	}
	for i := range 5 {
		if string(m.Users[fmt.Sprintf("u%05d", i*100)].Data) != changed || !m.Has(fmt.Sprintf("new%d%d", round, i)) {
			return false
		}
	}
	return true
}

// Ten thousand members are listed page by page, and counted at once.
func TestTenThousandMembers(t *testing.T) {
	s, _ := presenceStack(t, 1, 2)
	nc := s.worker()
	const many = 10_000
	crowd(t, nc, "now.a", many, `1`)
	eventually(t, "all are counted", func() (any, bool) {
		got, _ := svc(t, nc, "count", `{"topic":"now.a"}`)
		return got, got == `{"count":10000}`
	})
	for _, limit := range []int{1000, 333} {
		seen, cursor, pages := map[string]bool{}, "", 0
		for {
			body, err := json.Marshal(wire.PresenceListRequest{Topic: "now.a", Limit: limit, Cursor: cursor})
			must(t, err)
			got, code := svc(t, nc, "list", string(body))
			var page wire.PresenceList
			if err := json.Unmarshal([]byte(got), &page); err != nil || code != "" {
				t.Fatalf("list: %s %.200s", code, got)
			}
			pages++
			if page.Count != many || len(page.Users) > limit || page.Rev == 0 {
				t.Fatalf("page %d: %d users of %d, rev %d", pages, len(page.Users), page.Count, page.Rev)
			}
			for user := range page.Users {
				if seen[user] {
					t.Fatalf("%s is on two pages", user)
				}
				seen[user] = true
			}
			if cursor = page.Cursor; cursor == "" {
				break
			}
		}
		if want := (many + limit - 1) / limit; len(seen) != many || pages != want {
			t.Errorf("limit %d: %d members on %d pages, want %d on %d", limit, len(seen), pages, many, want)
		}
	}
	// A count costs the same however many there are.
	join(t, nc, "now.small", "one", `1`, "1m")
	took := func(topic string) time.Duration {
		best := time.Hour
		for range 50 {
			begun := time.Now()
			svc(t, nc, "count", fmt.Sprintf(`{"topic":%q}`, topic))
			best = min(best, time.Since(begun))
		}
		return best
	}
	if small, large := took("now.small"), took("now.a"); large > 5*small+time.Millisecond {
		t.Errorf("a count of 10,000 takes %s, one of 1 %s", large, small)
	}
	// A gateway reads them all, in pages, and shows them in one state.
	eye := watching(t, s.as(0, "eye"), "now.a")
	eye.until("all of them", func(m client.Members) bool { return len(m.Users) == many })
}
