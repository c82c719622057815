package gateway

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// pressureEvery is how often the load is sampled unless the configuration
	// says otherwise.
	pressureEvery = time.Second
	// shedRetry is when a message that was shed may be tried again.
	shedRetry = time.Second
	// classMost bounds the classes that metrics tell apart; otherClass stands
	// for the others.
	classMost  = 64
	otherClass = "other"
	// topPublisherReason is that of a topic that is published to too fast.
	topPublisherReason = "CLUSTER_TOP_PUBLISHER"
)

// admission decides which messages of clients are taken, by the class of their
// topic and the load of this gateway. Whoever publishes only reads atomics.
type admission struct {
	active  atomic.Uint32 // the pressures that count
	offered atomic.Int64  // messages that clients published, and those that were shed

	// The last sample, for metrics; a share in millionths.
	memory, published, subscribed atomic.Int64

	mu      sync.Mutex // held to add to classes
	classes atomic.Pointer[map[string]*classMeter]
}

// classMeter counts what became of the messages of a class.
type classMeter struct {
	accepted atomic.Int64
	rejected [len(everyPressure) + 1]atomic.Int64 // by pressure; the last is topPublisherReason
}

func newAdmission() *admission {
	a := &admission{}
	a.classes.Store(&map[string]*classMeter{})
	return a
}

// meter returns the counts of a class.
func (a *admission) meter(class string) *classMeter {
	if m := (*a.classes.Load())[class]; m != nil {
		return m
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	old := *a.classes.Load()
	if len(old) >= classMost && old[class] == nil {
		class = otherClass
	}
	if m := old[class]; m != nil {
		return m
	}
	with := make(map[string]*classMeter, len(old)+1)
	for name, m := range old {
		with[name] = m
	}
	with[class] = &classMeter{}
	a.classes.Store(&with)
	return with[class]
}

// admit takes a message of a topic, or says why it is shed. It comes before the
// message takes anything of a limit.
func (g *Service) admit(set *rules.Set, rule *rules.Topic, topic string, count *topicCount, size int) *wire.Error {
	meter, err := g.sheds(set, rule, topic, count, size)
	if err == nil && meter != nil {
		meter.accepted.Add(1)
	}
	return err
}

// sheds says why a message is shed, nil where it is not: then it is the caller who
// counts it in its class, if it has one.
func (g *Service) sheds(set *rules.Set, rule *rules.Topic, topic string, count *topicCount, size int) (*classMeter, *wire.Error) {
	if rule == nil {
		return nil, nil
	}
	class := set.Class(rule.Class)
	if class == nil { // the reader of the rules refuses such a rule
		return nil, nil
	}
	meter := g.admission.meter(class.Name)
	if active := pressures(g.admission.active.Load()); active != 0 {
		for _, r := range class.Shed {
			if active.has(r) {
				g.admission.offered.Add(1) // else shedding would end the pressure that it is for
				meter.rejected[r].Add(1)
				return meter, shed(class.Name, r.String(), "the gateway is under pressure: the message was not published")
			}
		}
	}
	if class.TopPublisher > 0 && g.top.rates().of(topic).Messages >= float64(class.TopPublisher) {
		g.wasPublished(count, size) // else the topic would be below its bound as soon as it is shed
		meter.rejected[len(everyPressure)].Add(1)
		return meter, shed(class.Name, topPublisherReason, "too much is published to the topic: the message was not")
	}
	return meter, nil
}

// wasPublished counts a message that a client published.
func (g *Service) wasPublished(count *topicCount, size int) {
	g.admission.offered.Add(1)
	count.messages.Add(1)
	count.bytes.Add(int64(size))
}

func shed(class, reason, text string) *wire.Error {
	return (&wire.Error{Code: wire.Unavailable, Message: text, RetryAfter: shedRetry}).
		With("class", class).With("reason", reason).With("outcome", "none")
}

// watchPressure samples the load until ctx is done, and says when the reason to
// shed changes.
func (g *Service) watchPressure(ctx context.Context) {
	every := g.cfg.PressureEvery
	if every == 0 {
		every = pressureEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	memory := newMemoryGauge(os.DirFS("/"))
	var b barometer
	var c collecting
	var collections sync.WaitGroup // beside the samples: one may take long
	defer collections.Wait()
	a := g.admission
	last, offered := time.Now(), a.offered.Load()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, n := time.Now(), a.offered.Load()
		l := load{Memory: memory.share(), Published: perSecond(n-offered, now.Sub(last)), Connections: g.connections.size()}
		if l.Connections > 0 {
			l.Subscribed = float64(g.fanout.hub.subscriptions.Load()) / float64(l.Connections)
		}
		last, offered = now, n
		a.memory.Store(int64(l.Memory * 1e6))
		a.published.Store(int64(l.Published))
		a.subscribed.Store(g.fanout.hub.subscriptions.Load())
		before := b.active.reason()
		b.take(l.over(g.cfg.Pressure))
		a.active.Store(uint32(b.active))
		if c.due(b.active.has(rules.Memory), memory.cycles, now) {
			collections.Go(runtime.GC)
		}
		if reason := b.active.reason(); reason != before {
			g.tellPressure(reason, l, now)
		}
	}
}

func perSecond(n int64, in time.Duration) float64 {
	if in <= 0 {
		return 0
	}
	return float64(n) / in.Seconds()
}

// pressureJSON is what fl.event.pressure says.
type pressureJSON struct {
	At              int64            `json:"at"`
	Gateway         string           `json:"gateway"`
	Reason          string           `json:"reason"`
	Memory          float64          `json:"memory"`
	PublishRate     float64          `json:"publishRate"`
	SubscriberRatio float64          `json:"subscriberRatio"`
	TopPublishers   []wire.TopicRate `json:"topPublishers"`
}

// pressureTop is how many topics fl.event.pressure names.
const pressureTop = 5

func (g *Service) tellPressure(reason string, l load, now time.Time) {
	say := g.log.Warn
	if reason == noReason {
		say = g.log.Info
	}
	say("pressure", "reason", reason, "memory", round(l.Memory), "publish_rate", round(l.Published), "subscriptions_per_connection", round(l.Subscribed))
	subject, err := g.cfg.Namespace.Event("pressure", "")
	if err != nil {
		return
	}
	data, err := json.Marshal(pressureJSON{
		At: now.UnixMilli(), Gateway: g.id, Reason: reason, Memory: round(l.Memory), PublishRate: round(l.Published), SubscriberRatio: round(l.Subscribed),
		TopPublishers: g.top.now(pressureTop, now),
	})
	if err != nil {
		return
	}
	if err := g.requests.PublishMsg(&nats.Msg{Subject: subject, Data: data}); err != nil {
		g.metrics.publishErrors.Add(1)
	}
}

// round keeps three digits behind the point.
func round(x float64) float64 { return math.Round(x*1000) / 1000 }
