package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// checkTimeout bounds one answer of /readyz. A check that takes longer to find
// out keeps what it found last and answers with that.
const checkTimeout = 2 * time.Second

// Checks are the conditions under which a process is ready for traffic. The
// zero value is usable and not ready; methods may be called concurrently.
type Checks struct {
	mu    sync.Mutex // guards names and ready
	names []string
	ready map[string]func(context.Context) error
}

// Add registers a check, or replaces the one of that name. ready returns nil
// when the part is ready, a [Degraded] when it is and something is wrong all the
// same, else why not, in words that may be public: the gateway shows them on its
// public address.
func (c *Checks) Add(name string, ready func(context.Context) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ready == nil {
		c.ready = map[string]func(context.Context) error{}
	}
	if c.ready[name] == nil {
		c.names = append(c.names, name)
	}
	c.ready[name] = ready
}

// Degraded is what a check returns that is ready though something is not as it
// should be: the part keeps its traffic, and says what is wrong.
type Degraded string

func (d Degraded) Error() string { return string(d) }

// CheckState is what one check said.
type CheckState struct {
	Name     string `json:"name"`
	Ready    bool   `json:"ready"`
	Degraded bool   `json:"degraded,omitempty"`
	// Reason says why it is not ready, or degraded.
	Reason string `json:"reason,omitempty"`
}

// Run asks all checks at the same time and returns what they say, in the order
// in which they were added, and whether all are ready. Without any check the
// process is not ready: it is still starting. It waits for every check, so a
// check must return when its context ends (2s).
func (c *Checks) Run(ctx context.Context) (states []CheckState, ready bool) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	c.mu.Lock()
	states = make([]CheckState, len(c.names))
	var asking sync.WaitGroup
	for i, name := range c.names {
		ask := c.ready[name]
		asking.Go(func() {
			states[i] = CheckState{Name: name, Ready: true}
			if err := ask(ctx); err != nil {
				var degraded Degraded
				ready := errors.As(err, &degraded)
				states[i] = CheckState{Name: name, Ready: ready, Degraded: ready, Reason: err.Error()}
			}
		})
	}
	c.mu.Unlock()
	asking.Wait()
	ready = len(states) > 0
	for _, s := range states {
		ready = ready && s.Ready
	}
	return states, ready
}

// export makes what the checks say metrics too, for who watches no /readyz. A
// scrape waits for them as /readyz does: for 2s, should one not answer.
func (c *Checks) export(meter metric.Meter) error {
	ready, bad := meter.Int64ObservableGauge("fairlead_process_checks_ready",
		metric.WithDescription("1 for each check of /readyz that is ready, 0 for the others"))
	degraded, worse := meter.Int64ObservableGauge("fairlead_process_checks_degraded",
		metric.WithDescription("1 for each check that is ready while something is wrong"))
	if err := errors.Join(bad, worse); err != nil {
		return err
	}
	number := map[bool]int64{true: 1}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		states, _ := c.Run(context.Background())
		for _, s := range states {
			check := metric.WithAttributes(attribute.String("check", s.Name))
			o.ObserveInt64(ready, number[s.Ready], check)
			o.ObserveInt64(degraded, number[s.Degraded], check)
		}
		return nil
	}, ready, degraded)
	return err
}

// ServeHTTP is /readyz: 200 when every check is ready, else 503. The body names
// each check and its state:
//
//	{"ready":false,"checks":[{"name":"nats","ready":false,"reason":"disconnected"}]}
func (c *Checks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	states, ready := c.Run(r.Context())
	status := http.StatusOK
	if !ready {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, struct {
		Ready  bool         `json:"ready"`
		Checks []CheckState `json:"checks"`
	}{ready, states})
}

// Healthz is /healthz: 200 as long as the process answers at all.
func Healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, struct {
		OK bool `json:"ok"`
	}{true})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own structs of strings and bools: cannot fail
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // a peer that is gone needs no answer
}
