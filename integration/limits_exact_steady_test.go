package integration

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// verdictOf asks the ratelimit service, and returns what it says.
func verdictOf(nc *nats.Conn, endpoint, body string) (reply wire.LimitReply, err error) {
	m, err := nc.Request("fl.svc.ratelimit."+endpoint, []byte(body), patience)
	if err != nil {
		return reply, fmt.Errorf("%s %s: %w", endpoint, body, err)
	}
	if e := wire.ParseErrorHeader(m.Header, m.Data); e != nil {
		return reply, fmt.Errorf("%s %s: %w", endpoint, body, e)
	}
	return reply, json.Unmarshal(m.Data, &reply)
}

// consumed is verdictOf for what has to be decided.
func consumed(t *testing.T, nc *nats.Conn, endpoint, body string) wire.LimitReply {
	t.Helper()
	reply, err := verdictOf(nc, endpoint, body)
	must(t, err)
	return reply
}

// polling is somebody who asks for one token again and again.
type polling struct {
	limit    string
	capacity float64
	rate     float64 // a second
	every    time.Duration
	above    bool // it asks for more than comes back
}

// skew is by how many seconds the replicas' clocks may differ.
const skew = 0.1

// run polls for a while, and says what was granted that should not be, or not
// what should.
func (p polling) run(nc *nats.Conn, lasts time.Duration) (said string, _ error) {
	body := fmt.Sprintf(`{"policy":%q,"key":"every %s"}`, p.limit, p.every)
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	denied, granted := 0, 0.0
	began := time.Now()
	var counting time.Time // the bucket counts from then at the latest
	for over := false; !over; {
		called := time.Now()
		reply, err := verdictOf(nc, "consume", body)
		if err != nil {
			return "", err
		}
		now := time.Now()
		if counting.IsZero() {
			counting = now
		}
		if reply.Allowed {
			granted++
		} else {
			denied++
			// What was there is granted by the time of a denial.
			if least := (p.capacity+(called.Sub(counting).Seconds()-skew)*p.rate)*0.99 - 1; granted < least {
				return "", fmt.Errorf("%v granted of at least %.1f, and denied after %s", granted, least, now.Sub(began))
			}
		}
		if most := p.capacity + (now.Sub(began).Seconds()+skew)*p.rate + 1; granted > most {
			return "", fmt.Errorf("%v granted of at most %.1f after %s", granted, most, now.Sub(began))
		}
		over = now.Sub(began) > lasts && (denied > 0 || !p.above)
		<-tick.C
	}
	if !p.above && denied > 0 {
		return "", fmt.Errorf("%d denied of less than comes back", denied)
	}
	return fmt.Sprintf("%v granted, %d denied", granted, denied), nil
}

// Who polls a limit steadily, at whatever rate, is granted what it says: over two
// replicas, of which each keeps what it read, as over one.
func TestSteadyPollingIsGrantedTheRate(t *testing.T) {
	t.Parallel()
	url := natsdev.Test(t).ClientURL()
	rules := rulesFile(t, `
topics: [{match: ">"}]
limits:
  hot: {capacity: 20, refill: 10, per: 1s, key: given}
  odd: {capacity: 60, refill: 7, per: 333ms, key: given}
  long: {capacity: 40, refill: 1009, per: 70s, key: given}
  slow: {capacity: 10, refill: 2, per: 900ms, key: given}
`)
	startLimits(t, url, rules)
	startLimits(t, url, rules)
	awaitLimits(t, connect(t, url), 2)
	var all sync.WaitGroup
	for _, p := range []polling{
		{"hot", 20, 10, 20 * time.Millisecond, true}, {"hot", 20, 10, 7 * time.Millisecond, true}, {"hot", 20, 10, 150 * time.Millisecond, false},
		{"odd", 60, 7 / 0.333, 11 * time.Millisecond, true}, {"long", 40, 1009.0 / 70, 9 * time.Millisecond, true}, {"slow", 10, 2 / 0.9, 50 * time.Millisecond, true},
	} {
		nc := connect(t, url)
		all.Go(func() {
			said, err := p.run(nc, 3*time.Second)
			if err != nil {
				t.Errorf("%s every %s: %v", p.limit, p.every, err)
			}
			t.Logf("%s every %s: %s", p.limit, p.every, said)
		})
	}
	all.Wait()
}
