package bench

import (
	"math/bits"
	"time"
)

// Histogram counts durations in buckets of constant relative width: each power
// of two is cut into 64, so a quantile is at most 1.6 % above the true value.
// It is the log-linear layout of HDR histograms at a fixed size (about 30 KB).
// The zero value is empty. It is not safe for concurrent use.
type Histogram struct {
	counts [bucketCount]uint64
	total  uint64
	sum    int64
	max    int64
}

const (
	subBits     = 6
	subBuckets  = 1 << subBits
	bucketCount = (64 - subBits) * subBuckets
)

func bucketOf(ns int64) int {
	if ns < subBuckets {
		return int(max(ns, 0))
	}
	shift := bits.Len64(uint64(ns)) - subBits - 1
	return shift<<subBits + int(uint64(ns)>>shift)
}

// bucketTop returns the largest value that falls into bucket i.
func bucketTop(i int) int64 {
	if i < 2*subBuckets {
		return int64(i)
	}
	shift := i>>subBits - 1
	return int64(i-shift<<subBits+1)<<shift - 1
}

// Record counts one duration; a negative one counts as zero.
func (h *Histogram) Record(ns int64) {
	h.counts[bucketOf(ns)]++
	h.total++
	h.sum += ns
	h.max = max(h.max, ns)
}

// Merge adds the counts of other.
func (h *Histogram) Merge(other *Histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
	h.sum += other.sum
	h.max = max(h.max, other.max)
}

// Count returns how many durations were recorded.
func (h *Histogram) Count() uint64 { return h.total }

// Quantile returns the duration that a share q (0 to 1) of the recorded ones
// does not exceed; zero when there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := uint64(q*float64(h.total) + 0.5)
	rank = min(max(rank, 1), h.total)
	var seen uint64
	for i, n := range h.counts {
		if seen += n; seen >= rank {
			return time.Duration(min(bucketTop(i), h.max))
		}
	}
	return time.Duration(h.max)
}

// Quantiles are a distribution in milliseconds, as a report shows it.
type Quantiles struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"meanMs"`
	P50   float64 `json:"p50Ms"`
	P90   float64 `json:"p90Ms"`
	P99   float64 `json:"p99Ms"`
	P999  float64 `json:"p999Ms"`
	Max   float64 `json:"maxMs"`
}

// Quantiles sums the histogram up.
func (h *Histogram) Quantiles() Quantiles {
	ms := func(d time.Duration) float64 { return float64(d) / 1e6 }
	q := Quantiles{
		Count: h.total, P50: ms(h.Quantile(0.5)), P90: ms(h.Quantile(0.9)), P99: ms(h.Quantile(0.99)),
		P999: ms(h.Quantile(0.999)), Max: ms(time.Duration(h.max)),
	}
	if h.total > 0 {
		q.Mean = float64(h.sum) / float64(h.total) / 1e6
	}
	return q
}
