package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Joins and leaves of one connection count in the order in which they were sent.
func TestJoinAndLeaveRaces(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 2)
	now := unique("now")
	eye := watching(t, s.as(1, "eye"), now)
	eye.sees()
	for _, ends := range []string{"presence.join", "presence.leave"} {
		p := newPeer(t, s.url(0), "ann")
		p.send(`{"op":"subscribe","id":2,"topic":"` + now + `"}`)
		p.hears(2)
		const rounds = 300
		sent := make(chan error, 1)
		go func() {
			for i := range rounds {
				frame := fmt.Sprintf(`{"op":"presence.leave","id":%d,"topic":"`+now+`"}`, i+10)
				if (i%2 == 0) == (ends == "presence.leave") {
					frame = fmt.Sprintf(`{"op":"presence.join","id":%d,"topic":"`+now+`","data":%d}`, i+10, i)
				}
				if err := p.ws.Write(within(t), websocket.MessageText, []byte(frame)); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		answered := 0
		for answered < rounds {
			frames, err := wire.DecodeServer([]byte(p.read()))
			must(t, err)
			for _, f := range frames {
				if f.Kind != wire.KindReply {
					continue
				}
				answered++
				if f.Error != nil {
					t.Fatalf("op %d: %v", f.ID, f.Error)
				}
			}
		}
		must(t, receive(t, sent))
		if ends == "presence.join" {
			eye.says("ann", fmt.Sprint(rounds-1))
		} else {
			eye.sees()
		}
		must(t, p.ws.CloseNow())
		eye.sees()
	}
	nc := s.worker()
	if got, _ := svc(t, nc, "count", `{"topic":"`+now+`"}`); got != `{"count":0}` {
		t.Errorf("count: got %s", got)
	}
}

// The answer to a subscribe comes first, then the state, then what changes.
func TestStateFollowsTheReplyAndPrecedesDiffs(t *testing.T) {
	t.Parallel()
	s := anyPresence(t, 2, 2)
	now := unique("now")
	nc := s.worker()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // somebody changes all the time
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				_, _ = nc.Request("fl.svc.presence.join", fmt.Appendf(nil, `{"topic":"`+now+`","user":"busy%d","data":%d,"ttl":"10s"}`, i%5, i), time.Second)
			}
		}
	}()
	for i := range 30 {
		p := newPeer(t, s.url(i), "ann")
		kind := [...]string{"watch", "join"}[i%2]
		p.send(fmt.Sprintf(`{"op":"subscribe","id":2,"topic":"`+now+`","presence":%q}`, kind))
		before, reply := p.hears(2)
		if len(before) > 0 || reply.Error != nil {
			t.Fatalf("before the reply: %d frames; %s", len(before), reply.Raw)
		}
		view := client.NewPresence()
		f := p.presence()
		if f.State == nil || kind == "join" && len(f.State) == 0 {
			t.Fatalf("the first frame is %s", f.Raw)
		}
		if _, there := f.State["ann"]; kind == "join" && !there {
			t.Errorf("who joined is not in the state: %s", f.Raw)
		}
		view.Apply(&f)
		for range 3 {
			f := p.presence()
			view.Apply(&f)
		}
		must(t, view.Err())
		must(t, p.ws.CloseNow())
	}
	close(stop)
	<-done
}
