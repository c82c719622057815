package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
)

// The turn goes to who asked first, whether a worker or not, and past who gave up.
func TestTurnsGoInOrder(t *testing.T) {
	var turn turn
	given := func(mine <-chan struct{}) bool {
		select {
		case <-mine:
			return true
		default:
			return false
		}
	}
	if turn.ask() != nil {
		t.Fatal("a free turn is not given")
	}
	first, second := turn.ask(), turn.ask()
	if turn.try() {
		t.Fatal("the worker has a turn that is taken")
	}
	last := turn.ask()
	if !turn.withdraw(first) {
		t.Error("who gave up was given the turn")
	}
	if turn.pass() || given(first) || !given(second) || given(last) || turn.withdraw(second) {
		t.Error("it is not the second's")
	}
	if !turn.pass() || given(last) || turn.free() {
		t.Error("it is not the worker's")
	}
	if !turn.try() || turn.pass() || !given(last) {
		t.Error("it is not the last one's after the worker's")
	}
	if turn.pass() || !turn.free() || !turn.try() {
		t.Error("it is not free")
	}
}

// Keys that are held for a slow one keep those who want them, and nobody else.
func TestHeldKeysKeepNobodyElse(t *testing.T) {
	r := inMemory()
	k := r.start(t, nil)
	l := slow("p", 1000)
	busy, err := k.hold(soon(t), "zzz")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	answers := make(chan error, 2*flushers)
	for i := range flushers {
		key := fmt.Sprint("user", i)
		all.Go(func() {
			_, _, err := k.consumeAll(soon(t), []keyed{{key, take{l, 1}}, {"zzz", take{l, 1}}})
			answers <- err
		})
		until(t, "the key is held", func() bool {
			c, err := k.cell(key)
			return err == nil && !c.turn.free()
		})
		all.Go(func() {
			_, err := k.consume(soon(t), key, []take{{l, 1}}, 1, false)
			answers <- err
		})
		until(t, "a worker was there", func() bool {
			c, err := k.cell(key)
			if err != nil {
				return false
			}
			c.turn.mu.Lock()
			defer c.turn.mu.Unlock()
			return len(c.turn.queue) == 1
		})
	}
	expectGiven(t, "another key", take1(t, k, "another", l, 1), 999)
	// Who gives up while he waits keeps nothing.
	gone, give := context.WithCancel(context.Background())
	give()
	if _, err := k.hold(gone, "zzz"); !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up: got %v", err)
	}
	k.leave(busy)
	for range 2 * flushers {
		if err := await(t, "an answer", answers); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
	expectLeft(t, r, "the slow key", "zzz", l, 1000-flushers)
	expectLeft(t, r, "a key that was held", "user7", l, 998)
}

// Requests for several keys get their turn of a key that is never quiet, and those
// of that key alone theirs where it is always held.
func TestNobodyIsStarved(t *testing.T) {
	r := inMemory()
	k := r.start(t, nil)
	l := slow("p", 1_000_000)
	ctx, stop := context.WithCancel(soon(t))
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				_, _ = k.consume(ctx, "hot", []take{{l, 1}}, 1, false)
			}
		})
		all.Go(func() {
			for ctx.Err() == nil {
				_, _, _ = k.consumeAll(ctx, []keyed{{"hot", take{l, 1}}, {"other", take{l, 1}}})
			}
		})
	}
	for range 50 {
		if _, granted, err := k.consumeAll(soon(t), []keyed{{"hot", take{l, 1}}, {"third", take{l, 1}}}); err != nil || !granted {
			t.Fatalf("several keys: got %t (%v)", granted, err)
		}
		take1(t, k, "hot", l, 1)
	}
}

// A request that waits for a worker which waits for its turn is answered when the
// replica stops.
func TestStopAnswersBehindAHeldKey(t *testing.T) {
	r := inMemory()
	k := newKeeper(keeperConfig{Store: r.store, ID: "a", Now: r.now, Metrics: &metrics{}})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { k.run(ctx) })
	held, err := k.hold(soon(t), "k")
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := k.consume(soon(t), "k", []take{{slow("p", 1), 1}}, 1, false)
		answered <- err
	}()
	until(t, "the worker waits", func() bool {
		held.turn.mu.Lock()
		defer held.turn.mu.Unlock()
		return len(held.turn.queue) == 1
	})
	stop()
	running.Wait()
	k.leave(held)
	if err := await(t, "an answer", answered); !errors.Is(err, errStopping) {
		t.Errorf("got %v, want %v", err, errStopping)
	}
	if !held.turn.free() {
		t.Error("the turn is lost")
	}
}
