package breaker

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// ends makes a call that ends so, and reports whether it was allowed.
func ends(b *Breaker, how Outcome) bool {
	pass, err := b.Allow()
	if err == nil {
		pass.Done(how)
	}
	return err == nil
}

func fail(t *testing.T, b *Breaker, n int) {
	t.Helper()
	for i := range n {
		if !ends(b, Failure) {
			t.Fatalf("call %d was not allowed", i)
		}
	}
}

func is(t *testing.T, b *Breaker, want State) {
	t.Helper()
	if got := b.State(); got != want {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func TestOnlyFailuresInARowBreak(t *testing.T) {
	t.Parallel()
	b := New(Config{Name: "replay"})
	fail(t, b, Failures-1)
	if ends(b, Neither); b.Answered() {
		t.Error("it has answered, and no call succeeded")
	}
	if ends(b, Success); !b.Answered() {
		t.Error("it has not answered, and a call succeeded")
	}
	for range 20 {
		fail(t, b, Failures-1)
		ends(b, Success)
	}
	is(t, b, Healthy)
	fail(t, b, Failures-1)
	for range 20 {
		ends(b, Neither) // neither counts nor resets
	}
	is(t, b, Healthy)
	fail(t, b, 1)
	is(t, b, Broken)
}

func TestABrokenBackendIsLeftAloneForTheDelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New(Config{Name: "replay", Delay: time.Second})
		fail(t, b, Failures)
		time.Sleep(400 * time.Millisecond)
		_, err := b.Allow()
		var e *wire.Error
		if !errors.As(err, &e) || e.Code != wire.Unavailable || e.RetryAfter != 600*time.Millisecond ||
			e.Details["what"] != "replay" || e.Details["outcome"] != "none" {
			t.Fatalf("got %v (%+v), want UNAVAILABLE for 600ms more about replay", err, e)
		}
		is(t, b, Broken)
		time.Sleep(600 * time.Millisecond)

		probe, err := b.Allow()
		if err != nil {
			t.Fatalf("after the delay: %v", err)
		}
		is(t, b, Probing)
		_, err = b.Allow()
		if !errors.As(err, &e) || e.Code != wire.Unavailable || e.RetryAfter <= 0 || e.RetryAfter > time.Second {
			t.Fatalf("beside a probe: got %v, want UNAVAILABLE with a wait within the delay", err)
		}
		probe.Done(Failure)
		is(t, b, Broken)
		if _, err = b.Allow(); !errors.As(err, &e) || e.RetryAfter != time.Second {
			t.Fatalf("after a probe that failed: got %v, want the whole delay again", err)
		}
		time.Sleep(time.Second)
		if !ends(b, Success) {
			t.Fatal("the second probe was not allowed")
		}
		is(t, b, Healthy)
		fail(t, b, Failures-1) // what failed before does not count any more
		is(t, b, Healthy)
	})
}

func TestOneProbePassesAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New(Config{Name: "x"})
		fail(t, b, Failures)
		for range 3 {
			time.Sleep(Delay)
			var passed []Pass
			var mu sync.Mutex
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() {
					if pass, err := b.Allow(); err == nil {
						mu.Lock()
						defer mu.Unlock()
						passed = append(passed, pass)
					}
				})
			}
			all.Wait()
			if len(passed) != 1 {
				t.Fatalf("%d probes passed, want 1", len(passed))
			}
			passed[0].Done(Failure)
		}
	})
}

// Whoever asks may go away meanwhile: then nobody knows more than before, and
// the next one finds out.
func TestAProbeWithoutAnOutcomeIsRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New(Config{Name: "x"})
		fail(t, b, Failures)
		time.Sleep(Delay)
		if !ends(b, Neither) {
			t.Fatal("the probe was not allowed")
		}
		is(t, b, Broken)
		time.Sleep(Delay)
		if !ends(b, Success) {
			t.Fatal("no other probe was allowed")
		}
		is(t, b, Healthy)
	})
}

func TestCallsOfAnEarlierStateDecideNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New(Config{Name: "x"})
		var old []Pass
		for range 4 {
			pass, err := b.Allow()
			if err != nil {
				t.Fatal(err)
			}
			old = append(old, pass)
		}
		fail(t, b, Failures)
		old[0].Done(Success)
		is(t, b, Broken)
		time.Sleep(Delay)
		probe, err := b.Allow()
		if err != nil {
			t.Fatal(err)
		}
		old[1].Done(Failure)
		old[2].Done(Success)
		old[3].Done(Neither)
		is(t, b, Probing)
		if _, err := b.Allow(); err == nil {
			t.Error("a second probe passed")
		}
		probe.Done(Success)
		is(t, b, Healthy)
	})
}

// Somebody who does not ask the breaker may find out first: then nobody waits.
func TestHealedFromOutside(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New(Config{Name: "x"})
		b.Heal()
		fail(t, b, Failures)
		b.Heal()
		is(t, b, Healthy)
		fail(t, b, Failures-1) // and forgiven
		is(t, b, Healthy)
		fail(t, b, 1)
		time.Sleep(Delay)
		probe, err := b.Allow()
		if err != nil {
			t.Fatal(err)
		}
		b.Heal()
		probe.Done(Failure) // it was for what is over
		is(t, b, Healthy)
	})
}

func TestACallThatPanicsHasFailed(t *testing.T) {
	t.Parallel()
	b := New(Config{Name: "x", Failures: 2})
	judge := func(err error) Outcome {
		if err != nil {
			return Failure
		}
		return Success
	}
	panics := func() {
		defer func() { _ = recover() }()
		_ = b.Do(func() error { panic("!") }, judge)
	}
	panics()
	is(t, b, Healthy)
	panics()
	is(t, b, Broken)
	called := false
	if err := b.Do(func() error { called = true; return nil }, judge); wire.CodeOf(err) != wire.Unavailable || called {
		t.Fatalf("got %v, called %v; want UNAVAILABLE without a call", err, called)
	}

	b = New(Config{Name: "x", Failures: 2})
	cause := errors.New("no answer")
	for range 2 {
		if err := b.Do(func() error { return cause }, judge); !errors.Is(err, cause) {
			t.Fatalf("got %v, want the call's own error", err)
		}
	}
	is(t, b, Broken)
}

func TestChangesAreHeardInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var heard []string
		b := New(Config{Name: "x", OnChange: func(from, to State) {
			heard = append(heard, from.String()+" "+to.String())
			panic("a listener's own fault")
		}})
		go b.Run(t.Context())
		fail(t, b, Failures)
		time.Sleep(Delay)
		fail(t, b, 1)
		time.Sleep(Delay)
		ends(b, Success)
		ends(b, Success)
		synctest.Wait()
		want := []string{"healthy broken", "broken probing", "probing broken", "broken probing", "probing healthy"}
		if !slices.Equal(heard, want) {
			t.Fatalf("got %v, want %v", heard, want)
		}
	})
}

func TestAListenerThatBlocksHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		b := New(Config{Name: "x", OnChange: func(State, State) { <-release }})
		go b.Run(t.Context())
		began := time.Now()
		fail(t, b, Failures)
		for range 10 * maxChanges {
			time.Sleep(Delay)
			fail(t, b, 1)
		}
		time.Sleep(Delay)
		ends(b, Success)
		is(t, b, Healthy)
		if got, want := time.Since(began), (10*maxChanges+1)*Delay; got != want {
			t.Errorf("it took %v, want %v: somebody waited for the listener", got, want)
		}
		if n := len(b.changes.take()); n > maxChanges {
			t.Errorf("%d changes wait, want at most %d", n, maxChanges)
		}
		close(release)
	})
}

// Real time: a refusal is an answer from memory.
func TestRefusalsAreFast(t *testing.T) {
	t.Parallel()
	b := New(Config{Name: "x", Delay: time.Hour})
	fail(t, b, Failures)
	const n = 10_000
	began := time.Now()
	for range n {
		if _, err := b.Allow(); err == nil {
			t.Fatal("allowed")
		}
	}
	if each := time.Since(began) / n; each > 5*time.Millisecond {
		t.Errorf("a refusal takes %v, want less than 5ms", each)
	}
}

func BenchmarkHealthy(b *testing.B) {
	br := New(Config{Name: "x"})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			ends(br, Success)
		}
	})
}
