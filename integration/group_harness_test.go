package integration

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/coder/websocket"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// guest is a client that joins groups and sees every frame as it comes.
type guest struct {
	*peer
	conn  string
	id    int64
	heard []wire.ServerFrame // frames that came while another was awaited
}

// newGuest connects a user whose token grants roles in a group.
func newGuest(t *testing.T, url, user, group string, roles ...string) *guest {
	t.Helper()
	g, err := tryGuest(t, url, token(user, map[string]any{"groups": map[string]any{group: append([]string{}, roles...)}}))
	must(t, err)
	return g
}

func tryGuest(t *testing.T, url, token string) (*guest, error) {
	ws, _, err := websocket.Dial(within(t), url, &websocket.DialOptions{HTTPClient: web})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { ws.CloseNow() })
	ws.SetReadLimit(-1)
	g := &guest{peer: &peer{t, ws}, id: 1}
	g.send(`{"op":"hello","id":1,"token":"` + token + `"}`)
	var hello struct{ OK struct{ Conn string } }
	if got := g.read(); json.Unmarshal([]byte(got), &hello) != nil || hello.OK.Conn == "" {
		return nil, fmt.Errorf("hello: %s", got)
	}
	g.conn = hello.OK.Conn
	return g, nil
}

// next returns the next frame that is not the server's own word.
func (g *guest) next() wire.ServerFrame {
	g.t.Helper()
	for {
		frames, err := wire.DecodeServer([]byte(g.read()))
		must(g.t, err)
		if f := frames[0]; f.Op != "ping" && f.Op != "system" {
			return f
		}
	}
}

// ask sends an op and returns its answer. What comes before it is kept.
func (g *guest) ask(op, fields string) wire.ServerFrame {
	g.t.Helper()
	g.id++
	g.send(fmt.Sprintf(`{"op":%q,"id":%d,%s}`, op, g.id, fields))
	return g.answer(g.id)
}

func (g *guest) answer(id int64) wire.ServerFrame {
	g.t.Helper()
	for {
		f := g.next()
		if f.Kind == wire.KindReply {
			if f.ID != id {
				g.t.Fatalf("got an answer to %d, want one to %d: %s", f.ID, id, f.Raw)
			}
			return f
		}
		g.heard = append(g.heard, f)
	}
}

// ok asks and expects this answer; "" is any.
func (g *guest) ok(op, fields, want string) string {
	g.t.Helper()
	f := g.ask(op, fields)
	if f.Error != nil || want != "" && string(f.OK) != want {
		g.t.Fatalf("%s %s: got %s, want %s", op, fields, f.Raw, want)
	}
	return string(f.OK)
}

// fails asks and expects an error of this code.
func (g *guest) fails(op, fields string, codes ...wire.Code) *wire.Error {
	g.t.Helper()
	f := g.ask(op, fields)
	if f.Error == nil || !slices.Contains(codes, f.Error.Code) {
		g.t.Fatalf("%s %s: got %s, want %s", op, fields, f.Raw, codes)
	}
	return f.Error
}

// hears expects the next frame of its own accord to be this.
func (g *guest) hears(want string) {
	g.t.Helper()
	var f wire.ServerFrame
	if len(g.heard) > 0 {
		f, g.heard = g.heard[0], g.heard[1:]
	} else {
		f = g.next()
	}
	if string(f.Raw) != want {
		g.t.Fatalf("%s heard\n%s, want\n%s", g.conn, f.Raw, want)
	}
}

// quiet expects that nothing has come: what is behind a round trip would have.
func (g *guest) quiet(after string) {
	g.t.Helper()
	g.ok("unsubscribe", `"topic":"none"`, `{}`)
	if len(g.heard) > 0 {
		g.t.Fatalf("%s: %s heard %s", after, g.conn, g.heard[0].Raw)
	}
}

// sees waits until the group has exactly these members, as one of them sees it.
func (g *guest) sees(group string, conns ...string) {
	g.t.Helper()
	eventually(g.t, fmt.Sprintf("%s has %v", group, conns), func() (any, bool) {
		var m wire.GroupMembers
		must(g.t, json.Unmarshal([]byte(g.ok("group.members", `"group":"`+group+`"`, "")), &m))
		all := len(m.Members) == len(conns) && m.Count == len(conns)
		for _, conn := range conns {
			_, is := m.Members[conn]
			all = all && is
		}
		return m, all
	})
	g.heard = nil
}
