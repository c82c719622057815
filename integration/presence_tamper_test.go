package integration

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/client"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Somebody writes into the buckets by hand what no gateway said, and takes out
// what one did say: the gateway's lease does not agree with it, and all is put
// right. Without the audit each of these would last for as long as the gateway.
func TestWhatNoGatewaySaidIsPutRight(t *testing.T) {
	t.Parallel()
	s, _ := presenceStack(t, 2, 2)
	const topic = "now.tampered"
	truth := roll{}
	for _, user := range []string{"ann", "bob", "cid", "dan", "eve"} {
		joining(t, s.as(0, user), topic, `"true"`)
		truth[user] = `"true"`
	}
	quitter := s.as(0, "quitter")
	joining(t, quitter, topic, "")
	quitter.Close(wire.CloseNormal)
	var eyes []*witness
	for i := range 2 {
		eyes = append(eyes, witnessing(t, s.as(i, "eye"), topic, "watch"))
	}
	nc := s.worker()
	settles(t, nc, topic, truth, eyes...)
	ann := s.as(0, "ann")
	gateway := ann.Welcome().Gateway
	epoch, held := gatewayLease(t, nc, gateway)
	if !held {
		t.Fatal("the gateway has no lease")
	}

	rows := buckets{t, nc, gateway}
	conn := func(id string) []wire.PresenceConn {
		return []wire.PresenceConn{{Conn: id, Data: json.RawMessage(`"forged"`)}}
	}
	began := time.Now()
	// Members who never were, of now, of an epoch gone by and of one to come.
	rows.forge(topic, wire.PresenceSection{User: "ghost", Epoch: epoch, Version: 1, Conns: conn("x")})
	rows.forge(topic, wire.PresenceSection{User: "loud", Epoch: epoch, Version: 1 << 40, Conns: conn("x")})
	rows.forge(topic, wire.PresenceSection{User: "future", Epoch: epoch + 1000, Version: 1, Conns: conn("x")})
	// Members who are there: hidden, spoken for, and of an epoch to come.
	rows.forge(topic, wire.PresenceSection{User: "ann", Epoch: epoch, Version: 1 << 41})
	rows.forge(topic, wire.PresenceSection{User: "bob", Epoch: epoch, Version: 1 << 42, Conns: conn("y")})
	rows.forge(topic, wire.PresenceSection{User: "cid", Epoch: epoch + 1000, Version: 1, Conns: conn("z")})
	rows.remove("presence", topic, "dan")
	// Who left is brought back as it was in an old backup.
	rows.forge(topic, wire.PresenceSection{User: "quitter", Epoch: epoch, Version: 2, Conns: conn("q")})
	// The registry.
	rows.forge("", wire.PresenceSection{User: "ghost", Epoch: epoch, Version: 1, Conns: conn("x")})
	rows.remove("connections", "", "eve")
	for _, w := range eyes {
		w.until("the forgeries are seen", func(m client.Members) bool {
			return m.Has("ghost", "loud", "future", "quitter") && !m.Has("ann") && !m.Has("dan")
		})
	}

	// A few renewals are a third of the lease each; one more audit may follow, ten
	// seconds behind the first, if that came in the middle of the tampering.
	deadline := began.Add(4*testLease/3 + 12*time.Second)
	for i, w := range eyes {
		w.by(deadline, fmt.Sprintf("observer %d sees the truth", i), func(m client.Members) bool { return truth.differs(m.Users) == "" })
	}
	t.Logf("mended after %s", time.Since(began).Round(10*time.Millisecond))
	settles(t, nc, topic, truth, eyes...)
	eventually(t, "the registry tells the truth", func() (any, bool) {
		ghost, _ := svc(t, nc, "lookup", `{"user":"ghost"}`)
		eve, _ := svc(t, nc, "online", `{"users":["eve"]}`)
		return ghost + eve, ghost == `{"connections":[]}` && eve == `{"online":{"eve":true}}`
	})
	// And what was put right goes on: its members can change and leave.
	bob := s.as(1, "bob")
	joining(t, bob, topic, `"newer"`)
	truth["bob"] = `"newer"`
	settles(t, nc, topic, truth, eyes...)
}

// buckets are the presence buckets as a plain client of JetStream writes them.
type buckets struct {
	t       *testing.T
	nc      *nats.Conn
	gateway string
}

func (b buckets) bucket(name string) nats.KeyValue {
	b.t.Helper()
	js, err := b.nc.JetStream(nats.MaxWait(patience))
	must(b.t, err)
	kv, err := js.KeyValue(wire.DefaultNamespace.Bucket(name))
	must(b.t, err)
	return kv
}

func (b buckets) key(topic, user string) string {
	b.t.Helper()
	key, err := wire.DefaultNamespace.PresenceKey(topic, user, b.gateway)
	must(b.t, err)
	return key
}

// forge writes a section in the gateway's name; in the registry without a topic.
func (b buckets) forge(topic string, p wire.PresenceSection) {
	b.t.Helper()
	p.Topic, p.Gateway = topic, b.gateway
	value, err := json.Marshal(p)
	must(b.t, err)
	name := "presence"
	if topic == "" {
		name = "connections"
	}
	_, err = b.bucket(name).Put(b.key(topic, p.User), value)
	must(b.t, err)
}

func (b buckets) remove(bucket, topic, user string) {
	b.t.Helper()
	must(b.t, b.bucket(bucket).Delete(b.key(topic, user)))
}
