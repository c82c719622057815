package runner

import (
	"slices"
	"strconv"
	"testing"
	"time"
)

var t0 = time.Now()

func at(d time.Duration) time.Time { return t0.Add(d) }

func TestALaneHasAsManyPlacesAsItsWorkers(t *testing.T) {
	ls := newLanes()
	n := 0
	for ls.reserve("x", t0) {
		n++
	}
	if n != leastCap {
		t.Errorf("%d places, want %d", n, leastCap)
	}
	ls.hello("x", "a", 20, false, t0)
	ls.hello("x", "b", 10, false, at(30*time.Second))
	ls.hello("x", "a", 25, false, at(30*time.Second)) // says it again
	for ls.reserve("x", t0) {
		n++
	}
	if n != 35 {
		t.Errorf("%d places, want 35", n)
	}
	ls.hello("x", "a", 25, true, at(30*time.Second))
	if got := ls.byName["x"].places(); got != leastCap {
		t.Errorf("%d places after one has gone, want %d", got, leastCap)
	}
	ls.hello("x", "b", 99, false, at(30*time.Second))
	ls.tidy(at(30*time.Second + workerFor + 1))
	if got := ls.byName["x"].places(); got != leastCap {
		t.Errorf("%d places after nothing was heard, want %d", got, leastCap)
	}
}

func TestWhatWaitsIsNotOvertaken(t *testing.T) {
	ls := newLanes()
	if !ls.demand("x", t0) {
		t.Fatal("no claim though there are places")
	}
	if ls.demand("x", t0) {
		t.Error("two claims at a time")
	}
	if !ls.reserve("x", t0) { // the claim takes what waits: there are places for both
		t.Error("a new task waits though there are places for all")
	}
	n := ls.begin("x", t0)
	if n != leastCap-1 {
		t.Errorf("claims %d, want %d", n, leastCap-1)
	}
	if ls.demand("x", t0) {
		t.Error("two claims at a time")
	}
	// As many as there were: there may be more, and somebody has said so meanwhile;
	// but there is no place.
	if ls.claimed("x", n, n, false, t0) {
		t.Error("claims without a place")
	}
	if !ls.release("x") {
		t.Error("a place is free, tasks wait, and nobody claims")
	}
	if ls.reserve("x", t0) {
		t.Error("a new task overtakes those that wait")
	}
	if n := ls.begin("x", t0); n != 1 {
		t.Errorf("claims %d, want 1", n)
	}
	if ls.claimed("x", 1, 0, false, t0) {
		t.Error("claims again though nothing was there")
	}
	if !ls.reserve("x", t0) {
		t.Error("nothing waits, and a new task may not begin")
	}
}

func TestAWakeDuringAClaimIsNotLost(t *testing.T) {
	ls := newLanes()
	ls.demand("x", t0)
	n := ls.begin("x", t0)
	ls.demand("x", t0)
	if !ls.claimed("x", n, 0, false, t0) {
		t.Error("what came while nothing was found is not claimed")
	}
	ls.begin("x", t0)
	if ls.claimed("x", n, 0, true, t0) {
		t.Error("a claim that failed is made again at once")
	}
	if ls.reserve("x", t0) {
		t.Error("what waits is forgotten since a claim failed")
	}
}

func TestANameThatNobodyServesIsTriedWithOneTask(t *testing.T) {
	ls := newLanes()
	for range 3 { // sent together
		ls.reserve("x", t0)
	}
	for range 3 {
		ls.bounced("x", t0)
		ls.release("x")
	}
	now := t0
	for i, pause := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 5 * time.Second} {
		if got := ls.probes(now.Add(pause - 1)); len(got) > 0 || ls.reserve("x", now) || ls.demand("x", now) {
			t.Fatalf("probe %d is sent before %s", i, pause)
		}
		now = now.Add(pause)
		if got := ls.probes(now); !slices.Equal(got, []string{"x"}) {
			t.Fatalf("probe %d: %v, want one after %s", i, got, pause)
		}
		if n := ls.begin("x", now); n != 1 {
			t.Fatalf("probe %d claims %d", i, n)
		}
		if ls.claimed("x", 1, 1, false, now) || len(ls.probes(now)) > 0 {
			t.Fatalf("probe %d is followed by another before its answer", i)
		}
		ls.bounced("x", now)
		ls.release("x")
	}
	ls.probes(now.Add(5 * time.Second))
	ls.begin("x", now.Add(5*time.Second))
	ls.claimed("x", 1, 1, false, now.Add(5*time.Second))
	// Nobody says that nobody took it.
	if got := ls.taken(now.Add(5*time.Second + answerWithin + 1)); !slices.Equal(got, []string{"x"}) {
		t.Errorf("after a probe that was taken: %v, want a claim", got)
	}
	if _, parked := ls.counts(); parked != 0 {
		t.Error("still parked")
	}
}

func TestAHelloEndsTheParkingAtOnce(t *testing.T) {
	ls := newLanes()
	ls.reserve("x", t0)
	ls.bounced("x", t0)
	ls.release("x")
	if !ls.hello("x", "", 0, false, t0) {
		t.Error("nothing is claimed after a hello, though a task waits")
	}
	ls.begin("x", t0)
	ls.claimed("x", leastCap, 0, false, t0)
	ls.reserve("x", t0)
	ls.bounced("x", t0)
	ls.release("x")
	if ls.hello("x", "w", 5, true, t0) {
		t.Error("one that goes ends the parking")
	}
	ls.probes(at(time.Second))
	if n := ls.begin("x", at(time.Second)); n != 1 {
		t.Fatalf("claims %d", n)
	}
	ls.claimed("x", 1, 0, false, at(time.Second))
	if !ls.reserve("x", at(time.Second)) {
		t.Error("parked though there is nothing to try it with: a new task does")
	}
}

func TestLanesAreBounded(t *testing.T) {
	ls := newLanes()
	for i := range maxLanes {
		ls.reserve(string(rune('a'+i%26))+string(rune(i+1000)), t0)
	}
	if ls.reserve("more", t0) || ls.demand("more", t0) || len(ls.byName) != maxLanes || ls.hello("more", "w", 1, false, t0) {
		t.Error("more lanes than are allowed")
	}
	for name := range ls.byName {
		ls.release(name)
	}
	ls.tidy(at(idleFor + 1))
	if !ls.reserve("more", at(idleFor+1)) {
		t.Error("idle lanes are kept for ever")
	}
}

// full returns lanes that are all taken by names that nobody serves.
func full(t *testing.T, now time.Time) *lanes {
	t.Helper()
	ls := newLanes()
	for i := range maxLanes {
		name := "tenant" + strconv.Itoa(i)
		if !ls.demand(name, now) || ls.begin(name, now) == 0 {
			t.Fatal(name)
		}
		ls.claimed(name, leastCap, 1, false, now)
		ls.bounced(name, now)
		ls.release(name)
	}
	return ls
}

// However many names wait that nobody serves, one that somebody serves is served,
// and one of which nobody knows is tried.
func TestNamesThatNobodyServesMakeRoom(t *testing.T) {
	ls := full(t, t0)
	for i := range 100 { // at once
		name := "served" + strconv.Itoa(i)
		if !ls.hello(name, "w", 10, false, t0) {
			t.Fatalf("%s has a worker, and nothing is claimed for it", name)
		}
		if n := ls.begin(name, t0); n != leastCap {
			t.Fatalf("claims %d of %s, want %d", n, name, leastCap)
		}
	}
	now := at(evictEvery)
	if ls.demand("plain", now) || ls.demand("other", now) {
		t.Error("more than one task is tried of a name of which nobody knows")
	}
	if ls.byName["plain"] == nil || ls.byName["other"] != nil || len(ls.byName) != maxLanes {
		t.Errorf("%d lanes, want one for the first of two that came at once", len(ls.byName))
	}
	for try := 0; ; try++ { // behind those that wait for longer
		got := ls.probes(now)
		if slices.Contains(got, "plain") {
			break
		}
		for _, name := range got {
			ls.begin(name, now)
			ls.claimed(name, 1, 1, false, now)
			ls.bounced(name, now)
			ls.release(name)
		}
		if now = now.Add(time.Second); try > 2*maxLanes/probesPerSecond {
			t.Fatal("a name is never tried")
		}
	}
	if n := ls.begin("plain", now); n != 1 {
		t.Errorf("claims %d of what may not be served, want 1", n)
	}
}

// However many names nobody serves, no more than some are tried in a second, and
// each of them in its turn.
func TestProbesAreBounded(t *testing.T) {
	ls := full(t, t0)
	seen := map[string]bool{}
	now := at(time.Minute)
	probe := func(pause time.Duration) {
		now = now.Add(pause)
		for _, name := range ls.probes(now) {
			if n := ls.begin(name, now); n != 1 {
				t.Fatalf("claims %d for a probe", n)
			}
			ls.claimed(name, 1, 1, false, now)
			ls.bounced(name, now)
			ls.release(name)
			seen[name] = true
		}
	}
	for range 50 {
		probe(probeEvery)
	}
	tries, _ := ls.probed()
	if tries > 6*probesPerSecond || tries < 5*probesPerSecond {
		t.Errorf("%d probes in 5 s, want %d and those of one more at the start", tries, 5*probesPerSecond)
	}
	for range maxLanes/probesPerSecond + 10 {
		probe(time.Second)
	}
	if len(seen) != maxLanes {
		t.Errorf("%d of %d names were tried", len(seen), maxLanes)
	}
}

// A claim that fails is not asked for again at once, nor as large.
func TestAClaimThatFails(t *testing.T) {
	ls, now := newLanes(), time.Now()
	fails := func(failed bool) (n int) {
		ls.demand("work", now)
		if n = ls.begin("work", now); n > 0 {
			ls.claimed("work", n, 0, failed, now)
			ls.asked("work", n, failed, now)
		}
		return n
	}
	for i, want := range []int{leastCap, 8, 4, 2, 1, 1} {
		if got := fails(true); got != want {
			t.Fatalf("claim %d is of %d, want %d", i+1, got, want)
		}
		if got := fails(true); got != 0 {
			t.Fatalf("%d are claimed at once after a claim that failed", got)
		}
		now = now.Add(pauses[min(i, len(pauses)-1)])
	}
	for i, want := range []int{1, 2, 4, 8, leastCap, leastCap} {
		if got := fails(false); got != want {
			t.Fatalf("claim %d of those that succeed is of %d, want %d", i+1, got, want)
		}
	}
}
