//go:build unix

package integration

import (
	"bytes"
	"fmt"
	"strconv"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A gateway hangs for so long that NATS gives it up as a slow consumer. When it
// goes on, its clients, connected all the time, get what they missed,
// more than any queue holds: each message once and in order.
func TestAPausedGatewayMakesUpForIt(t *testing.T) {
	t.Parallel()
	server := natsdev.Test(t)
	file := rulesFile(t, fmt.Sprintf(replayedRules, 100_000))
	s := &stack{t: t, nats: server.ClientURL()}
	startReplay(t, s.nats, file)
	// What the kernel holds of the flood arrives at once when the gateway goes on.
	s.add("FAIRLEAD_TOPICS_FILE="+file, "FAIRLEAD_LIMIT_OUTBOUND_BYTES=4194304")
	topic := unique("chat.room")
	sub, err := s.as(0, "ann").Subscribe(within(t), topic, client.SubscribeOptions{Control: true})
	must(t, err)
	js, err := jetstream.New(s.worker())
	must(t, err)
	body := append(bytes.Repeat([]byte("x"), 8000), '"')
	n := 0
	put := func(messages int) {
		for range messages {
			_, err := js.PublishAsync("fl.topic."+topic, append([]byte(`"`+strconv.Itoa(n)+" "), body...))
			must(t, err)
			n++
		}
		<-js.PublishAsyncComplete()
	}
	put(10)
	gateway := s.gateways[0]
	must(t, gateway.cmd.Process.Signal(syscall.SIGSTOP))
	slow := server.SlowConsumers()
	for server.SlowConsumers() == slow {
		put(500)
		if n > 40_000 {
			t.Fatal("NATS never gave up the gateway")
		}
	}
	must(t, gateway.cmd.Process.Signal(syscall.SIGCONT))
	put(10)
	var at wire.Position
	for i := range n {
		m := next(t, sub)
		number, _, _ := bytes.Cut(m.Data[1:], []byte(" "))
		if m.Control != "" || string(number) != strconv.Itoa(i) || m.Seq <= at.Seq {
			t.Fatalf("message %d of %d: got %s %.20s", i, n, m.Control, m.Data)
		}
		at = wire.Position{Seq: m.Seq, Ts: m.Ts}
	}
	t.Logf("%d messages", n)
}
