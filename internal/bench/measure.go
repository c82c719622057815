package bench

import (
	"context"
	"fmt"
	"runtime"
	"time"
)

// Above these the generator, not the server, may have decided the figures.
const (
	warnLoop  = 0.85 // of one core, used by one loop
	warnShare = 0.50 // of all cores, used by the generator on a busy machine
	warnBusy  = 0.90 // of all cores, used by anyone
	warnLag   = 5.0  // ms behind the schedule
	warnOther = 0.15 // of all cores, used by other processes than server and generator
)

// sample is a moment of everything that is measured by difference.
type sample struct {
	at        time.Time
	server    Usage
	own       time.Duration
	busy, all time.Duration
	loops     []loopUsage
}

// sample takes one; whole also asks the admin address, which costs the server a little.
func (e *engine) sample(ctx context.Context, s *server, whole bool) (sample, error) {
	var p sample
	p.loops = make([]loopUsage, len(e.loops))
	if err := e.each(ctx, func(i int, l loop) { p.loops[i] = l.usage() }); err != nil {
		return p, err
	}
	p.at, p.own = time.Now(), ownCPU()
	p.busy, p.all = machineBusy()
	p.server = s.usage(ctx, whole)
	return p, nil
}

// report fills in what every scenario reports: t is what was seen between the
// two samples, ops what the server's CPU is divided by.
func (e *engine) report(scenario string, from, to sample, t *tally, ops int64) *Report {
	seconds := to.at.Sub(from.at).Seconds()
	r := &Report{
		Scenario: scenario, Protocol: dialectName(e.target.Dialect), URL: e.target.URL, Seconds: seconds, Parameters: map[string]any{"loops": len(e.loops)},
		Published: float64(t.published) / seconds, Delivered: float64(t.delivered) / seconds, Acks: float64(t.acks) / seconds,
		Bytes: float64(t.bytes) / seconds,
		Lost:  t.lost, Repeated: t.repeated, Damaged: t.damaged, Errors: t.errors, Closed: t.closed, Failure: t.failure,
	}
	if t.frames > 0 {
		r.MessagesPerFrame = float64(t.delivered) / float64(t.frames)
	}
	if t.latency.Count() > 0 {
		q := t.latency.Quantiles()
		r.Latency = &q
	}
	if t.ack.Count() > 0 {
		q := t.ack.Quantiles()
		r.Ack = &q
	}
	if to.server.Source != "" && from.server.Source == to.server.Source {
		cpu := (to.server.CPU - from.server.CPU).Seconds()
		r.Server = &ServerCost{Source: to.server.Source, Cores: cpu / seconds, RSS: to.server.RSS, Goroutines: to.server.Goroutines}
		if ops > 0 {
			r.Server.Micros = cpu * 1e6 / float64(ops)
		}
	}
	g := &r.Generator
	g.Cores = (to.own - from.own).Seconds() / seconds
	g.Share = g.Cores / float64(runtime.NumCPU())
	if to.all > from.all {
		g.Machine = float64(to.busy-from.busy) / float64(to.all-from.all)
	}
	var turns Histogram
	for i := range to.loops {
		g.BusiestLoop = max(g.BusiestLoop, (to.loops[i].cpu-from.loops[i].cpu).Seconds()/seconds)
		turns.Merge(turnsBetween(&from.loops[i].turns, &to.loops[i].turns))
	}
	g.TurnP99 = turns.Quantiles().P99
	g.LagP99 = t.lag.Quantiles().P99
	e.judge(r)
	return r
}

// judge adds warnings where the generator was in the way.
func (e *engine) judge(r *Report) {
	g := r.Generator
	warn := func(format string, args ...any) { r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...)) }
	if g.BusiestLoop > warnLoop {
		warn("a loop of the generator used %.0f %% of a core: the generator limits these rates and delays; more --loops, or another machine", 100*g.BusiestLoop)
	}
	if g.Share > warnShare && g.Machine > warnBusy {
		warn("the generator used %.0f %% of all cores of a machine that was %.0f %% busy: compare CPU per operation, not rates", 100*g.Share, 100*g.Machine)
	}
	if other := g.Machine - g.Share; r.Server != nil && g.Machine > 0 {
		if other -= r.Server.Cores / float64(runtime.NumCPU()); other > warnOther {
			warn("other processes (a NATS server of its own is one) used %.0f %% of all cores", 100*other)
		}
	}
	if r.Latency != nil && g.TurnP99 > r.Latency.P50/2 && g.TurnP99 > 1 {
		warn("one turn of the generator's loops takes up to %.1f ms (p99), which is in the latency", g.TurnP99)
	}
	if g.LagP99 > warnLag {
		warn("publishes were up to %.1f ms (p99) behind their schedule, which is in the latency", g.LagP99)
	}
	if r.Server == nil {
		warn("the server's CPU and memory are unknown: give --pid or --admin")
	}
}

// turnsBetween returns what was recorded after from was copied.
func turnsBetween(from, to *Histogram) *Histogram {
	h := *to
	for i, n := range from.counts {
		h.counts[i] -= n
	}
	h.total -= from.total
	h.sum -= from.sum
	return &h
}

func dialectName(d Dialect) string {
	if _, ok := d.(Centrifugo); ok {
		return "centrifugo"
	}
	return "fairlead"
}
