package gateway

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/fstest"
	"time"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/internal/rules"
)

func TestContainerLimit(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for _, test := range []struct {
		name string
		root fstest.MapFS
		want int64
	}{
		{"no control groups", fstest.MapFS{}, 0},
		{"version 2, in a container", fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("134217728\n")}, 128 << 20},
		{"version 2, unlimited", fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("max\n")}, 0},
		{"version 2, a group above has the limit", fstest.MapFS{"proc/self/cgroup": file("0::/a/b\n"),
			"sys/fs/cgroup/a/b/memory.max": file("max\n"), "sys/fs/cgroup/a/memory.max": file("1000000\n")}, 1_000_000},
		{"version 2, the smallest counts", fstest.MapFS{"proc/self/cgroup": file("0::/a/b\n"),
			"sys/fs/cgroup/a/b/memory.max": file("3000000\n"), "sys/fs/cgroup/a/memory.max": file("2000000\n")}, 2_000_000},
		{"version 1", fstest.MapFS{"proc/self/cgroup": file("9:cpu,cpuacct:/x\n4:memory:/docker/1\n"),
			"sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": file("5000000\n"), "sys/fs/cgroup/memory/memory.limit_in_bytes": file("9223372036854771712\n")}, 5_000_000},
		{"version 1, the container sees its group as the root", fstest.MapFS{"proc/self/cgroup": file("4:memory:/docker/1\n"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes": file("6000000\n")}, 6_000_000},
		{"version 1, unlimited", fstest.MapFS{"proc/self/cgroup": file("4:memory:/\n"), "sys/fs/cgroup/memory/memory.limit_in_bytes": file("9223372036854771712\n")}, 0},
		{"nonsense", fstest.MapFS{"proc/self/cgroup": file("0::/../..\nx\n"), "sys/fs/cgroup/memory.max": file("a lot\n")}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := containerLimit(test.root); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}

func TestMemoryShare(t *testing.T) {
	// 10 of stacks and the like, 40 of objects of which 25 are live, 5 free, 5
	// unused, 20 given back.
	var f [memoryFigures]int64
	f[memoryTotal], f[memoryReleased], f[memoryFree], f[memoryUnused] = 80, 20, 5, 5
	f[memoryObjects], f[memoryLive], f[memoryGoal] = 40, 25, 50
	off := f
	off[memoryGoal] = math.MaxInt64
	for _, test := range []struct {
		name             string
		f                [memoryFigures]int64
		limit, container int64
		want             float64
	}{
		{"no limit at all", f, math.MaxInt64, 0, 0},
		{"GOMEMLIMIT: what a collection can't free", f, 100, 0, 0.35},
		{"GOMEMLIMIT below the container's", f, 100, 120, 0.35},
		{"the container's alone: what the heap will come to", f, math.MaxInt64, 100, 0.6},
		{"the container's below GOMEMLIMIT", f, 200, 100, 0.6},
		{"without collections: what there is", off, math.MaxInt64, 100, 0.6},
	} {
		if got := memoryShare(test.f, test.limit, test.container); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// The runtime has every figure that the gauge asks for.
func TestMemoryGaugeReadsTheRuntime(t *testing.T) {
	m := newMemoryGauge(os.DirFS(t.TempDir()))
	m.container = 1 << 40
	if got := m.share(); got <= 0 || got > 0.1 {
		t.Errorf("got %v of a limit of 1 TiB", got)
	}
}

func TestWhenACollectionIsForced(t *testing.T) {
	now := time.Now()
	var c collecting
	for i, step := range []struct {
		pressing bool
		cycles   uint64
		after    time.Duration
		want     bool
	}{
		{false, 3, 0, false},
		{false, 3, time.Second, false},
		{true, 4, time.Second, false}, // one has just ended
		{true, 4, time.Second, true},
		{true, 4, time.Second, false}, // it may be under way
		{true, 5, time.Second, false},
		{true, 5, time.Second, false},
		{true, 5, collectEvery, true},
		{false, 5, 2 * collectEvery, false},
	} {
		now = now.Add(step.after)
		if got := c.due(step.pressing, step.cycles, now); got != step.want {
			t.Errorf("sample %d: got %v, want %v", i, got, step.want)
		}
	}
}

// The pressure of memory ends when its cause has gone, though nothing is allocated
// any more: a collection is forced.
func TestThePressureOfMemoryForcesACollection(t *testing.T) {
	before := debug.SetMemoryLimit(1 << 40)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	forced := func() uint32 {
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.NumForcedGC
	}
	was := forced()
	startGateway(t, natsdev.Test(t), func(c *Config, _ *Deps, _ *rules.Options) {
		c.PressureEvery, c.Pressure = 5*time.Millisecond, Pressure{Memory: 1e-9}
	})
	eventually(t, "a collection is forced", func() bool { return forced() > was })
}
