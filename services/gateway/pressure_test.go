package gateway

import (
	"testing"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
)

func TestLoadOverItsThresholds(t *testing.T) {
	usual := Pressure{Memory: 0.85, PublishRate: 10_000, Subscribers: 50}
	all := pressures(0).with(rules.Memory).with(rules.PublishRate).with(rules.Subscribers)
	for _, test := range []struct {
		name       string
		load       load
		thresholds Pressure
		want       pressures
		reason     string
	}{
		{"nothing", load{}, usual, 0, "NONE"},
		{"right below each", load{0.849, 9_999, 49.9, 100}, usual, 0, "NONE"},
		{"right at each", load{0.85, 10_000, 50, 100}, usual, all, "MEMORY"},
		{"everything is off", load{2, 1e9, 1e9, 1e9}, Pressure{}, 0, "NONE"},
		{"memory alone", load{Memory: 1.2}, usual, pressures(0).with(rules.Memory), "MEMORY"},
		{"rate before subscribers", load{0, 1e6, 60, 100}, usual, pressures(0).with(rules.PublishRate).with(rules.Subscribers), "PUBLISH_RATE"},
		{"a few connections with many subscriptions", load{0, 0, 1000, 99}, usual, 0, "NONE"},
		{"enough of them", load{0, 0, 1000, 100}, usual, pressures(0).with(rules.Subscribers), "SUBSCRIBERS"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := test.load.over(test.thresholds)
			if got != test.want || got.reason() != test.reason {
				t.Errorf("got %b, %s; want %b, %s", got, got.reason(), test.want, test.reason)
			}
		})
	}
}

// A reason counts at once and ends after two samples without it, so that one
// between two of them ends nothing.
func TestBarometerDoesNotFlap(t *testing.T) {
	memory, rate := pressures(0).with(rules.Memory), pressures(0).with(rules.PublishRate)
	var b barometer
	for i, step := range []struct {
		over pressures
		want string
	}{
		{0, "NONE"},
		{rate, "PUBLISH_RATE"},
		{0, "PUBLISH_RATE"},
		{rate, "PUBLISH_RATE"},
		{0, "PUBLISH_RATE"},
		{memory, "MEMORY"}, // ends the rate, too: its second sample below
		{0, "MEMORY"},
		{0, "NONE"},
		{0, "NONE"},
		{memory | rate, "MEMORY"},
		{rate, "MEMORY"},
		{rate, "PUBLISH_RATE"},
		{0, "PUBLISH_RATE"},
		{0, "NONE"},
	} {
		if b.take(step.over); b.active.reason() != step.want {
			t.Fatalf("sample %d: got %s, want %s", i, b.active.reason(), step.want)
		}
	}
}

// What connections are subscribed to is counted, wildcards too, until they leave.
func TestSubscriptionsAreCounted(t *testing.T) {
	r := startGateway(t, natsdev.Test(t))
	p, q := r.dial(), r.dial()
	p.hello("")
	q.hello("")
	subscribed := func(want int64) {
		t.Helper()
		if got := r.g.fanout.hub.subscriptions.Load(); got != want {
			t.Errorf("got %d subscriptions, want %d", got, want)
		}
	}
	subscribed(0) // none of these: the subjects of users and connections
	p.send(`[{"op":"subscribe","id":2,"topic":"x.a"},{"op":"subscribe","id":3,"topic":"x.b"},{"op":"subscribe","id":4,"topic":"x.a"}]`)
	for range 3 {
		p.read()
	}
	subscribed(2)
	q.send(`{"op":"subscribe","id":2,"topic":"x.>"}`)
	q.read()
	subscribed(3)
	p.send(`{"op":"unsubscribe","id":5,"topic":"x.a"}`)
	p.read()
	subscribed(2)
	p.ws.CloseNow()
	q.ws.CloseNow()
	eventually(t, "none is left", func() bool { return r.g.fanout.hub.subscriptions.Load() == 0 })
}
