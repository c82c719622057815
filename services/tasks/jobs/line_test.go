package jobs

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Nothing is claimed for who has gone, whatever replica they wait at: the next one in
// line gets it.
func TestWhoLeavesGetsNothing(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	w := &watched{Store: NewMemory(time.Now), claims: make(chan Claimed, 1000)}
	var replicas []*Service
	for _, id := range []string{"here", "there"} {
		nc, err := nats.Connect(server.ClientURL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		replicas = append(replicas, replica(t, id, w, nc))
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	here, there := replicas[0], replicas[1]
	for _, said := range []*Service{here, there} {
		gone := wait(t, here, wire.JobClaim{Queue: "q", Wait: "15s", ID: "a"})
		receive(t, "the first look", w.claims)
		if _, err := said.Leave(t.Context(), wire.JobLeave{ID: "a"}); err != nil {
			t.Fatal(err)
		}
		if jobs := receive(t, "the one that has gone", gone); len(jobs) != 0 {
			t.Errorf("the one that has gone got %v", jobs)
		}
		next := wait(t, here, wire.JobClaim{Queue: "q", Wait: "15s", ID: "b"})
		enqueue(t, there, wire.JobEnqueue{Queue: "q", JobNew: wire.JobNew{MaxAttempts: 1}})
		if jobs := receive(t, "the next one", next); len(jobs) != 1 || jobs[0].Attempts != 1 {
			t.Errorf("the next one got %v, want the job", jobs)
		}
		for len(w.claims) > 0 {
			<-w.claims
		}
	}
	if n := len(here.lines.named) + len(here.lines.queues); n != 0 {
		t.Errorf("%d waits are left behind", n)
	}
	if _, err := here.Leave(t.Context(), wire.JobLeave{}); wire.CodeOf(err) != wire.InvalidArgument {
		t.Errorf("without an id: %v", err)
	}
}

// Who was woken and has gone leaves the job to the next one.
func TestAWakeIsPassedOn(t *testing.T) {
	t.Parallel()
	l := newLines(2)
	first, err := l.join("q", "a")
	if err != nil {
		t.Fatal(err)
	}
	second, err := l.join("q", "")
	if err != nil {
		t.Fatal(err)
	}
	l.wake("q", 1)
	if !l.end("a") || l.end("a") || !first.left() {
		t.Error("the first one has not gone, once")
	}
	l.leave(first)
	if len(second.wake) != 1 {
		t.Error("nobody looks")
	}
}
