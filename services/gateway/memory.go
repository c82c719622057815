package gateway

import (
	"bytes"
	"io/fs"
	"math"
	"path"
	"runtime/debug"
	figures "runtime/metrics" // the gateway has metrics of its own
	"strconv"
	"strings"
	"time"
)

// memoryGauge says how much of its memory the process uses.
type memoryGauge struct {
	container int64 // what the control group lets it have; 0: it has no limit
	samples   []figures.Sample
	cycles    uint64 // collections that had ended when it was last read
}

// The figures of the runtime that memoryGauge reads, in the order of its samples.
const (
	memoryTotal = iota
	memoryReleased
	memoryFree
	memoryUnused
	memoryObjects
	memoryLive
	memoryGoal
	memoryCycles
	memoryFigures
)

func newMemoryGauge(root fs.FS) *memoryGauge {
	m := &memoryGauge{container: containerLimit(root), samples: make([]figures.Sample, memoryFigures)}
	for i, name := range [memoryFigures]string{
		"/memory/classes/total:bytes", "/memory/classes/heap/released:bytes", "/memory/classes/heap/free:bytes",
		"/memory/classes/heap/unused:bytes", "/memory/classes/heap/objects:bytes", "/gc/heap/live:bytes", "/gc/heap/goal:bytes",
		"/gc/cycles/total:gc-cycles",
	} {
		m.samples[i].Name = name
	}
	return m
}

// share returns which part of its limit the process uses, 0 without a limit.
func (m *memoryGauge) share() float64 {
	figures.Read(m.samples)
	var f [memoryFigures]int64
	for i, s := range m.samples {
		if s.Value.Kind() == figures.KindUint64 {
			f[i] = int64(min(s.Value.Uint64(), math.MaxInt64))
		}
	}
	m.cycles = uint64(f[memoryCycles])
	return memoryShare(f, debug.SetMemoryLimit(-1), m.container)
}

// collectEvery is how often a collection is forced at most.
const collectEvery = 10 * time.Second

// collecting decides when a collection is forced: the figures are those of the
// last one, and where the load has gone, or is shed, nothing allocates what would
// bring the next.
type collecting struct {
	cycles uint64    // that had ended at the last sample
	forced time.Time // when one last was
}

// due takes a sample: whether memory is a pressure, and how many collections have
// ended so far.
func (c *collecting) due(pressing bool, cycles uint64, now time.Time) bool {
	none := cycles == c.cycles
	c.cycles = cycles
	if !pressing || !none || now.Sub(c.forced) < collectEvery {
		return false
	}
	c.forced = now
	return true
}

// memoryShare is what the runtime's figures come to. Under GOMEMLIMIT
// (MaxInt64: unset) garbage is collected before the limit is passed, so that
// only what is live counts. Without it the heap grows to its goal before
// anything is collected, and the container dies of that: the goal counts.
func memoryShare(f [memoryFigures]int64, goLimit, container int64) float64 {
	rest := f[memoryTotal] - f[memoryReleased] - f[memoryFree] - f[memoryUnused] - f[memoryObjects]
	switch {
	case goLimit < math.MaxInt64 && (container == 0 || goLimit <= container):
		return float64(f[memoryLive]+rest) / float64(max(goLimit, 1))
	case container == 0:
		return 0
	case f[memoryGoal] > 1<<50: // GOGC=off
		return float64(f[memoryTotal]-f[memoryReleased]) / float64(container)
	}
	return float64(max(f[memoryGoal], f[memoryObjects])+rest) / float64(container)
}

// containerLimit returns the smallest memory limit of the control groups that
// the process is in, of version 2 or 1; 0 where there is none.
func containerLimit(root fs.FS) int64 {
	least := int64(math.MaxInt64)
	read := func(file string) {
		text, err := fs.ReadFile(root, file)
		if err != nil {
			return // not this version, or not of this level
		}
		if n, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64); err == nil && n > 0 {
			least = min(least, n)
		}
	}
	// up reads the file of a group and of all around it. A container may see
	// its own group as the root, under another name than it is said to have.
	up := func(mount, group, file string) {
		for group = path.Clean("/" + group); ; group = path.Dir(group) {
			read(path.Join(mount, group, file))
			if group == "/" {
				return
			}
		}
	}
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(groups)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(parts) != 3:
		case parts[0] == "0" && parts[1] == "":
			up("sys/fs/cgroup", parts[2], "memory.max")
		case strings.Contains(","+parts[1]+",", ",memory,"):
			up("sys/fs/cgroup/memory", parts[2], "memory.limit_in_bytes")
		}
	}
	if least >= 1<<60 { // how version 1 says: none
		return 0
	}
	return least
}
