package integration

import (
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Without a presence service joins fail soon, and watching begins later.
func TestWithoutAPresenceService(t *testing.T) {
	t.Parallel()
	s, _ := presenceStack(t, 2, 0)
	ann := s.as(0, "ann")
	begun := time.Now()
	for _, c := range []struct{ op, fields string }{
		{"presence", `{"topic":"now.a"}`},
		{"subscribe", `{"topic":"now.a","presence":"join"}`},
	} {
		denied(t, ann, c.op, c.fields, wire.Unavailable)
	}
	eye := watching(t, ann, "now.a")
	denied(t, ann, "presence", `{"topic":"now.a"}`, wire.Unavailable)
	denied(t, ann, "presence.join", `{"topic":"now.a"}`, wire.Unavailable)
	denied(t, ann, "presence.update", `{"topic":"now.a","data":1}`, wire.FailedPrecondition)
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("the answers took %s", took)
	}
	publish(t, ann, "now.a", `1`) // messages need none
	system := make(chan client.SystemEvent, 16)
	ann.OnSystem(func(e client.SystemEvent) { system <- e })
	startPresence(t, s.nats, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, presenceRules))
	eye.sees()
	eventually(t, "joins are served", func() (any, bool) {
		_, err := ask(t, ann, "presence.join", `{"topic":"now.a"}`)
		return err, err == nil
	})
	eye.sees("ann")
	// Connections from before it are in the registry, too.
	nc := s.worker()
	eventually(t, "ann is online", func() (any, bool) {
		got, _ := svc(t, nc, "online", `{"users":["ann","nobody"]}`)
		return got, got == `{"online":{"ann":true,"nobody":false}}`
	})
	select {
	case e := <-system:
		t.Errorf("got %+v: there was none that could have gone", e)
	default:
	}
}

// Clients hear that the service is away and that it is back, once each.
func TestPresenceDegradedAndRecovered(t *testing.T) {
	t.Parallel()
	s, replicas := presenceStack(t, 1, 2)
	ann := s.as(0, "ann")
	system := make(chan client.SystemEvent, 16)
	ann.OnSystem(func(e client.SystemEvent) { system <- e })
	eye := joining(t, ann, "now.a", "")
	eye.sees("ann")
	replicas[0].kill()
	for range 20 { // one of two is enough
		eventually(t, "joins go on", func() (any, bool) {
			_, err := ask(t, ann, "presence.join", `{"topic":"now.a"}`)
			return err, err == nil
		})
	}
	replicas[1].kill()
	eventually(t, "joins fail", func() (any, bool) {
		got, err := ask(t, ann, "presence.join", `{"topic":"now.a","data":1}`)
		return got, wire.CodeOf(err) == wire.Unavailable
	})
	for {
		e := receive(t, system)
		if e.Event == "degraded" && e.What == "presence" {
			break
		}
		t.Logf("also: %+v", e)
	}
	startPresence(t, s.nats, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, presenceRules))
	for {
		e := receive(t, system)
		if e.Event == "recovered" && e.What == "presence" {
			break
		}
		t.Logf("also: %+v", e)
	}
	if ann.CloseError() != nil {
		t.Error("the connection did not stay")
	}
	asked(t, ann, "presence.join", `{"topic":"now.a","data":2}`)
	eye.says("ann", "2")
}
