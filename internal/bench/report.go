package bench

import (
	"fmt"
	"io"
	"sort"
	"strings"
	"text/tabwriter"
)

// Report is the result of one run. Rates are per second of the measured time,
// which the warm-up is not part of.
type Report struct {
	Scenario   string         `json:"scenario"`
	Protocol   string         `json:"protocol"`
	URL        string         `json:"url"`
	Parameters map[string]any `json:"parameters"`
	Seconds    float64        `json:"seconds"`

	Published        float64    `json:"publishedPerSecond,omitempty"`
	Delivered        float64    `json:"deliveredPerSecond,omitempty"`
	MessagesPerFrame float64    `json:"messagesPerFrame,omitempty"`
	Bytes            float64    `json:"bytesPerSecond,omitempty"` // payload bytes of frames that held messages
	Acks             float64    `json:"acksPerSecond,omitempty"`
	Connections      float64    `json:"connectionsPerSecond,omitempty"`
	Latency          *Quantiles `json:"latency,omitempty"` // publish to delivery
	Ack              *Quantiles `json:"ackRoundTrip,omitempty"`
	Connect          *Quantiles `json:"connectLatency,omitempty"` // dial to the reply to subscribe

	PerConnection *PerConnection `json:"perConnection,omitempty"`
	Server        *ServerCost    `json:"server,omitempty"`
	Generator     GeneratorCost  `json:"generator"`

	Lost     int64  `json:"lost"`
	Repeated int64  `json:"repeated"`
	Damaged  int64  `json:"damaged"`
	Errors   int64  `json:"errors"`
	Closed   int64  `json:"closed"`
	Failure  string `json:"failure,omitempty"` // the first error's text

	Warnings []string `json:"warnings,omitempty"`
}

// ServerCost is what the server process used during the measured time.
type ServerCost struct {
	Source     string  `json:"source"`
	Cores      float64 `json:"cores"`          // CPU seconds per second
	Micros     float64 `json:"cpuMicrosPerOp"` // per delivered message, acknowledged publish or connection
	RSS        int64   `json:"rssBytes"`       // at the end
	Goroutines int64   `json:"goroutines,omitempty"`
}

// PerConnection is what an idle connection costs the server. The kernel's
// socket buffers are not in it.
type PerConnection struct {
	RSS        float64  `json:"rssBytes"`
	RSSAfterGC *float64 `json:"rssAfterGCBytes,omitempty"` // only where the admin address could be asked to collect
	Heap       *float64 `json:"heapBytes,omitempty"`
	Stack      *float64 `json:"stackBytes,omitempty"`
	Goroutines *float64 `json:"goroutines,omitempty"`
}

// GeneratorCost is what this process used, and how late it was.
type GeneratorCost struct {
	Cores       float64 `json:"cores"`       // CPU seconds per second
	Share       float64 `json:"share"`       // of all cores of the machine
	Machine     float64 `json:"machineBusy"` // share of all cores that anyone used; 0: unknown
	BusiestLoop float64 `json:"busiestLoop"` // CPU of the busiest loop's thread per second; 0: unknown
	TurnP99     float64 `json:"turnP99Ms"`   // one loop's work between two waits
	LagP99      float64 `json:"scheduleLagP99Ms,omitempty"`
}

// Failed reports whether messages or connections were lost: the figures then
// say little about the server's speed.
func (r *Report) Failed() bool { return r.Lost+r.Damaged+r.Errors+r.Closed > 0 }

// WriteTable writes the report for people.
func (r *Report) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s\t%s %s\n", r.Scenario, r.Protocol, r.URL)
	fmt.Fprintf(t, "parameters\t%s\n", parameters(r.Parameters))
	rate := func(name string, v float64) {
		if v > 0 {
			fmt.Fprintf(t, "%s\t%s/s\n", name, count(v))
		}
	}
	rate("published", r.Published)
	rate("delivered", r.Delivered)
	if r.MessagesPerFrame > 0 {
		fmt.Fprintf(t, "joined\t%.1f messages per frame, %.1f MB/s\n", r.MessagesPerFrame, r.Bytes/1e6)
	}
	rate("acknowledged", r.Acks)
	rate("connected", r.Connections)
	quantiles(t, "latency", r.Latency)
	quantiles(t, "ack round trip", r.Ack)
	quantiles(t, "connect+subscribe", r.Connect)
	if p := r.PerConnection; p != nil {
		fmt.Fprintf(t, "per connection\tRSS %.1f KB%s%s%s%s\n", p.RSS/1e3, kb(", after GC", p.RSSAfterGC), kb(", heap", p.Heap), kb(", stacks", p.Stack), number(", goroutines", p.Goroutines))
	}
	if s := r.Server; s != nil {
		fmt.Fprintf(t, "server (%s)\t%.2f cores, %.2f µs CPU per operation, RSS %.1f MB\n", s.Source, s.Cores, s.Micros, float64(s.RSS)/1e6)
	} else {
		fmt.Fprintf(t, "server\tunknown: give --pid or --admin\n")
	}
	g := r.Generator
	fmt.Fprintf(t, "generator\t%.2f cores (%.0f %% of the machine, which was %.0f %% busy), busiest loop %.0f %%, turn p99 %.2f ms\n", g.Cores, 100*g.Share, 100*g.Machine, 100*g.BusiestLoop, g.TurnP99)
	if g.LagP99 > 0 {
		fmt.Fprintf(t, "schedule\tp99 %.2f ms late\n", g.LagP99)
	}
	fmt.Fprintf(t, "faults\t%d lost, %d repeated, %d damaged, %d errors, %d closed\n", r.Lost, r.Repeated, r.Damaged, r.Errors, r.Closed)
	if r.Failure != "" {
		fmt.Fprintf(t, "first failure\t%s\n", r.Failure)
	}
	for _, s := range r.Warnings {
		fmt.Fprintf(t, "warning\t%s\n", s)
	}
	return t.Flush()
}

func quantiles(w io.Writer, name string, q *Quantiles) {
	if q != nil && q.Count > 0 {
		fmt.Fprintf(w, "%s\tp50 %.3f  p90 %.3f  p99 %.3f  p99.9 %.3f  max %.3f ms\n", name, q.P50, q.P90, q.P99, q.P999, q.Max)
	}
}

func kb(name string, v *float64) string {
	if v == nil {
		return ""
	}
	return fmt.Sprintf("%s %.1f KB", name, *v/1e3)
}

func number(name string, v *float64) string {
	if v == nil {
		return ""
	}
	return fmt.Sprintf("%s %.2f", name, *v)
}

func parameters(m map[string]any) string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = fmt.Sprintf("%s=%v", name, m[name])
	}
	return strings.Join(parts, " ")
}

// count writes a rate with few digits.
func count(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2fM", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.1fk", v/1e3)
	}
	return fmt.Sprintf("%.0f", v)
}
