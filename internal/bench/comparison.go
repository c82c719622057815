package bench

import (
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"text/tabwriter"
	"time"
)

// Comparison is what one run measured of two or more sides. A figure of a side
// is that of all rounds together; a verdict is the median over the rounds.
type Comparison struct {
	Scenario   string             `json:"scenario"`
	Parameters map[string]any     `json:"parameters"`
	Sides      []Side             `json:"sides"`
	Verdicts   []Verdict          `json:"verdicts"`
	Cores      map[string]float64 `json:"cores,omitempty"`      // CPU seconds per second, by process
	Others     float64            `json:"othersBusy,omitempty"` // most of the machine that other processes used in a part
	Checked    int64              `json:"checked"`              // messages that were held against what had to come

	Lost     int64  `json:"lost"`
	Repeated int64  `json:"repeated"`
	Damaged  int64  `json:"damaged"`
	Errors   int64  `json:"errors"`
	Closed   int64  `json:"closed"`
	Failure  string `json:"failure,omitempty"` // the first error's text

	Warnings []string `json:"warnings,omitempty"`
}

// Side is one of the things that are compared.
type Side struct {
	Name string  `json:"name"`
	Rate float64 `json:"perSecond,omitempty"`
	Unit string  `json:"unit,omitempty"` // of Rate
	Quantiles
}

// Verdict holds a figure against its goal.
type Verdict struct {
	What   string    `json:"what"`
	Got    float64   `json:"got"` // the median of Rounds
	Goal   float64   `json:"goal"`
	Unit   string    `json:"unit"`
	AtMost bool      `json:"atMost"` // the goal is an upper bound; else a lower one
	Met    bool      `json:"met"`
	Rounds []float64 `json:"rounds,omitempty"`
}

// Failed reports whether something was lost, repeated or out of order: then no
// figure counts. A goal that was missed is not a failure.
func (c *Comparison) Failed() bool {
	return c.Lost+c.Repeated+c.Damaged+c.Errors+c.Closed > 0
}

func (c *Comparison) atMost(what string, goal float64, unit string, rounds ...float64) {
	c.judge(Verdict{What: what, Goal: goal, Unit: unit, AtMost: true, Rounds: rounds})
}

func (c *Comparison) atLeast(what string, goal float64, unit string, rounds ...float64) {
	c.judge(Verdict{What: what, Goal: goal, Unit: unit, Rounds: rounds})
}

func (c *Comparison) judge(v Verdict) {
	v.Got = median(v.Rounds)
	v.Met = v.Got >= v.Goal
	if v.AtMost {
		v.Met = v.Got <= v.Goal
	}
	c.Verdicts = append(c.Verdicts, v)
}

// side adds a side. h may be nil.
func (c *Comparison) side(name string, rate float64, unit string, h *Histogram) {
	s := Side{Name: name, Rate: rate, Unit: unit}
	if h != nil {
		s.Quantiles = h.Quantiles()
	}
	c.Sides = append(c.Sides, s)
}

// faults adds what a part of the run counted.
func (c *Comparison) faults(t *tally) {
	c.Lost += t.lost
	c.Repeated += t.repeated
	c.Damaged += t.damaged
	c.Errors += t.errors
	c.Closed += t.closed
	if c.Failure == "" {
		c.Failure = t.failure
	}
}

// median of the values; 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// WriteTable writes the comparison for people.
func (c *Comparison) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s\t%s\n", c.Scenario, parameters(c.Parameters))
	for _, s := range c.Sides {
		var parts []string
		if s.Rate > 0 {
			parts = append(parts, fmt.Sprintf("%s %s/s", count(s.Rate), s.Unit))
		}
		if q := s.Quantiles; q.Count > 0 {
			parts = append(parts, fmt.Sprintf("p50 %.3f  p90 %.3f  p99 %.3f  p99.9 %.3f  max %.3f ms (%d)", q.P50, q.P90, q.P99, q.P999, q.Max, q.Count))
		}
		fmt.Fprintf(t, "%s\t%s\n", s.Name, strings.Join(parts, ", "))
	}
	for _, v := range c.Verdicts {
		relation, met := "at least", "met"
		if v.AtMost {
			relation = "at most"
		}
		if !v.Met {
			met = "NOT MET"
		}
		fmt.Fprintf(t, "goal: %s\t%s %s (%s %s): %s%s\n", v.What, figure(v.Got), v.Unit, relation, figure(v.Goal), met, spread(v.Rounds))
	}
	if len(c.Cores) > 0 {
		names := make([]string, 0, len(c.Cores))
		for name := range c.Cores {
			names = append(names, name)
		}
		sort.Strings(names)
		parts := make([]string, len(names))
		for i, name := range names {
			parts[i] = fmt.Sprintf("%s %.2f", name, c.Cores[name])
		}
		fmt.Fprintf(t, "cores\t%s; other processes %.0f %% of the machine\n", strings.Join(parts, ", "), 100*c.Others)
	}
	fmt.Fprintf(t, "checked\t%d messages: %d lost, %d repeated, %d damaged, %d errors, %d closed\n", c.Checked, c.Lost, c.Repeated, c.Damaged, c.Errors, c.Closed)
	if c.Failure != "" {
		fmt.Fprintf(t, "first failure\t%s\n", c.Failure)
	}
	for _, s := range c.Warnings {
		fmt.Fprintf(t, "warning\t%s\n", s)
	}
	return t.Flush()
}

func spread(rounds []float64) string {
	if len(rounds) < 2 {
		return ""
	}
	return fmt.Sprintf(" [%s to %s in %d rounds]", figure(slices.Min(rounds)), figure(slices.Max(rounds)), len(rounds))
}

func figure(v float64) string {
	if v >= 1000 {
		return count(v)
	}
	return fmt.Sprintf("%.3g", v)
}

// clock measures what the processes of a site used in one part of a run.
type clock struct {
	s         *site
	at        time.Time
	used      map[string]time.Duration
	busy, all time.Duration
}

func (s *site) clock() clock {
	k := clock{s: s, at: time.Now(), used: s.usage()}
	k.busy, k.all = machineBusy()
	return k
}

// stop writes what was used since into the comparison.
func (k clock) stop(c *Comparison) {
	took := time.Since(k.at)
	busy, all := machineBusy()
	c.Cores = costs(k.used, k.s.usage(), took)
	if c.Others <= warnOther {
		c.Others = max(c.Others, busyOthers(busy-k.busy, all-k.all, c.Cores))
		if c.Others > warnOther { // said once
			c.Warnings = append(c.Warnings, fmt.Sprintf("processes that are none of this benchmark's used %.0f %% of the machine: measure again when they are gone", 100*c.Others))
		}
	}
}
