package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"
	"golang.org/x/sync/errgroup"
)

// testimony is what a client of the crowd answers: who it is, and what it was
// asked.
type testimony struct {
	User, Conn string
	Nonce      uint64
}

// crosstalk returns what is wrong with an answer to a user's ask, nil if it is
// that user's, of one of the user's connections, to that ask.
func crosstalk(conns map[string]string, user string, nonce uint64, a answer) error {
	var said testimony
	switch {
	case a.err != nil || a.code != "":
		return fmt.Errorf("%s: got %s", user, a)
	case json.Unmarshal([]byte(a.body), &said) != nil:
		return fmt.Errorf("%s: got %s", user, a)
	case said.User != user || conns[said.Conn] != user || said.Nonce != nonce:
		return fmt.Errorf("asked %s %d, %s of %s answered %d", user, nonce, said.Conn, said.User, said.Nonce)
	}
	return nil
}

// The checker finds an answer of another user, of another ask, of a connection
// that is somebody else's, and none.
func TestCrosstalkIsNoticed(t *testing.T) {
	t.Parallel()
	conns := map[string]string{"c1": "ann", "c2": "bob"}
	const right = `{"User":"ann","Conn":"c1","Nonce":7}`
	if err := crosstalk(conns, "ann", 7, answer{body: right}); err != nil {
		t.Errorf("a right answer: %v", err)
	}
	for _, wrong := range []answer{
		{body: `{"User":"bob","Conn":"c2","Nonce":7}`},
		{body: `{"User":"ann","Conn":"c2","Nonce":7}`},
		{body: `{"User":"ann","Conn":"c1","Nonce":8}`},
		{body: `{"User":"ann","Nonce":7}`},
		{body: ``}, {body: right, code: "NOT_FOUND"}, {body: right, err: context.DeadlineExceeded},
	} {
		if crosstalk(conns, "ann", 7, wrong) == nil {
			t.Errorf("%s passes for an answer of ann to 7", wrong)
		}
	}
}

// extra is a client as light as one can be: it answers what it is asked.
type extra struct {
	ws   *websocket.Conn
	user string
	conn string

	early [][]byte // frames that came before the answer to hello
}

func newExtra(ctx context.Context, url, user string) (*extra, error) {
	ws, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: web})
	if err != nil {
		return nil, err
	}
	e := &extra{ws: ws, user: user}
	err = ws.Write(ctx, websocket.MessageText, []byte(`{"op":"hello","id":1,"token":"`+token(user, nil)+`"}`))
	for err == nil && e.conn == "" {
		var data []byte
		if _, data, err = ws.Read(ctx); err != nil {
			break
		}
		var f struct {
			OK  struct{ Conn string }
			Ref string
		}
		switch err = json.Unmarshal(data, &f); {
		case err != nil:
		case f.Ref != "": // asked as soon as it can be, before it knows its own name
			e.early = append(e.early, data)
		case f.OK.Conn == "":
			err = fmt.Errorf("hello: %s", data)
		default:
			e.conn = f.OK.Conn
		}
	}
	if err != nil {
		ws.CloseNow()
		return nil, err
	}
	return e, nil
}

// run answers until the socket ends.
func (e *extra) run(ctx context.Context) {
	for _, data := range e.early {
		e.answer(ctx, data)
	}
	for {
		_, data, err := e.ws.Read(ctx)
		if err != nil {
			return
		}
		e.answer(ctx, data)
	}
}

// answer sends the answer to a frame that is a request; where it can't be sent
// the socket has ended.
func (e *extra) answer(ctx context.Context, data []byte) {
	var f struct {
		Ref  string
		Data uint64
	}
	if json.Unmarshal(data, &f) != nil || f.Ref == "" {
		return
	}
	said, _ := json.Marshal(testimony{e.user, e.conn, f.Data}) // it can be encoded
	_ = e.ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"op":"reply","ref":%q,"data":%s}`, f.Ref, said))
}

// Very many users on three gateways are asked at random, in no order: each answer
// is that user's, to that question. With the race detector, and on a stack behind a proxy, there are fewer.
func TestAskOfACrowd(t *testing.T) {
	size, asks := 10_000, 10_000
	if raceEnabled || existing() {
		size = 1000
	}
	s := anyPresence(t, 3, 2)
	ctx, cancel := context.WithCancel(context.Background())
	crowd := make([]*extra, size)
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		for _, e := range crowd {
			if e != nil {
				e.ws.CloseNow()
			}
		}
		running.Wait()
	})
	var dialing errgroup.Group
	dialing.SetLimit(64)
	for i := range crowd {
		dialing.Go(func() (err error) {
			crowd[i], err = newExtra(within(t), s.url(i), fmt.Sprintf("u%d", i))
			return err
		})
	}
	must(t, dialing.Wait())
	conns := make(map[string]string, size)
	for _, e := range crowd {
		conns[e.conn] = e.user
		running.Go(func() { e.run(ctx) })
	}
	if len(conns) != size {
		t.Fatalf("%d different connections of %d", len(conns), size)
	}
	nc := s.worker()
	var asked atomic.Int64
	var all errgroup.Group
	for range 64 {
		all.Go(func() error {
			for asked.Add(1) <= int64(asks) {
				user, nonce := fmt.Sprintf("u%d", rand.IntN(size)), rand.Uint64N(1<<53)
				if err := crosstalk(conns, user, nonce, askFor(nc, "fl.ask."+user, fmt.Sprint(nonce), patience)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	must(t, all.Wait())
}
