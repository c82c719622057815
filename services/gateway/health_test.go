package gateway

import (
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
)

// One shard that does not move is noticed, though the gateway is up, connected
// and hears through every other: its topics are deaf.
func TestOneBlockedShardIsNotReady(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	shards := r.g.fanout.shards
	stuck, release := make(chan struct{}, 1), make(chan struct{})
	block := func() {
		select {
		case stuck <- struct{}{}:
		default:
		}
		<-release
	}
	shards[1].block.Store(&block)
	<-stuck
	last := shards[1].heard.Load()
	eventually(t, "the other shards hear later probes", func() bool {
		for _, s := range shards {
			if s != shards[1] && s.heard.Load() <= last+int64(probeEvery) {
				return false
			}
		}
		return true
	})
	if err := r.g.hears(time.Unix(0, last).Add(probeLimit)); err != nil {
		t.Errorf("within the limit: %v", err)
	}
	err := r.g.hears(time.Unix(0, last).Add(probeLimit + time.Millisecond))
	if err == nil || !strings.Contains(err.Error(), "shard 1 ") {
		t.Errorf("got %v, want shard 1 noticed", err)
	}
	shards[1].block.Store(nil)
	close(release)
	eventually(t, "the shard hears again", func() bool { return shards[1].heard.Load() > last })
	if err := r.g.Ready(); err != nil {
		t.Errorf("released: %v", err)
	}
}

// NATS away at the start is no failure: the gateway is ready when it comes.
func TestReadinessFollowsNATS(t *testing.T) {
	server := natsdev.Test(t)
	r := startGateway(t, server)
	p := r.dial()
	p.hello("")
	p.send(`{"op":"subscribe","id":2,"topic":"a"}`)
	p.expect(`{"id":2,"ok":{"topic":"a"}}`)
	server.Shutdown()
	if got := p.read(); !strings.HasPrefix(got, `{"op":"system","event":"degraded","what":"nats","at":`) {
		t.Fatalf("got %s, want degraded", got)
	}
	if err := r.g.Ready(); err == nil {
		t.Error("ready without NATS")
	}
	for _, frame := range []string{`{"op":"publish","id":3,"topic":"a"}`, `{"op":"subscribe","id":3,"topic":"b"}`, `{"op":"call","id":3,"method":"m.x"}`} {
		p.send(frame)
		if details := p.expectError(3, "UNAVAILABLE"); details["outcome"] != "none" {
			t.Errorf("%s: details %v, want outcome none", frame, details)
		}
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	if got := p.read(); !strings.HasPrefix(got, `{"op":"system","event":"recovered","what":"nats","at":`) {
		t.Fatalf("got %s, want recovered", got)
	}
	if err := r.bus().Publish("fl.topic.a", []byte(`"marked"`)); err != nil {
		t.Fatal(err)
	}
	p.expect(`{"topic":"a","event":"message","data":"marked"}`)
	eventually(t, "ready again", func() bool { return r.g.Ready() == nil })
	p.send(`{"op":"publish","id":4,"topic":"a","data":1,"echo":false}`)
	p.expect(`{"id":4,"ok":{}}`) // the marked message came once
}
