package idem

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// rig is an empty store for three replicas.
type rig struct {
	replicas [3]Store
	// expire returns when the slot of a key has ended, which had a second to live.
	expire func(t *testing.T, key string)
}

func TestMemory(t *testing.T) {
	testStore(t, func(*testing.T) rig {
		var mu sync.Mutex
		now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		m := NewMemory(func() time.Time { mu.Lock(); defer mu.Unlock(); return now })
		return rig{[3]Store{m, m, m}, func(*testing.T, string) { mu.Lock(); defer mu.Unlock(); now = now.Add(time.Second) }}
	})
}

func TestPostgres(t *testing.T) {
	pool := database(t)
	testStore(t, func(t *testing.T) rig {
		exec := func(sql string, args ...any) {
			t.Helper()
			if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
				t.Fatal(err)
			}
		}
		exec(`truncate fairlead.idem`)
		return rig{[3]Store{NewPostgres(pool), NewPostgres(pool), NewPostgres(pool)}, func(_ *testing.T, key string) {
			exec(`update fairlead.idem set expires = expires - interval '1 s' where key = $1`, key)
		}}
	})
}

func TestBucket(t *testing.T) {
	var conns []*nats.Conn
	server := natsdev.Test(t)
	for range 3 {
		nc, err := nats.Connect(server.ClientURL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		conns = append(conns, nc)
	}
	js, err := jetstream.New(conns[0])
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := kv.Ensure(t.Context(), js, wire.DefaultNamespace, Slots(1)); err != nil {
			t.Fatal(err)
		}
	}
	testStore(t, func(t *testing.T) (r rig) {
		for i := range r.replicas {
			r.replicas[i] = NewBucket(conns[i], wire.DefaultNamespace)
		}
		b := NewBucket(conns[0], wire.DefaultNamespace)
		if _, err := b.Clear(soon(t)); err != nil {
			t.Fatal(err)
		}
		r.expire = func(t *testing.T, key string) {
			t.Helper()
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for ctx := soon(t); ; {
				s, _, err := b.look(ctx, key)
				if err != nil {
					t.Fatal(err)
				}
				if s == nil {
					return
				}
				<-tick.C
			}
		}
		return r
	})
}

// brief is for slots that are to expire.
func brief(token string) Want {
	return Want{Token: token, AcquireTTL: time.Second, TTL: time.Second}
}

func lasting(token string) Want {
	return Want{Token: token, AcquireTTL: time.Minute, TTL: time.Hour}
}

func (r rig) acquire(t *testing.T, key string, want Want, state wire.SlotState) Found {
	t.Helper()
	got, err := r.replicas[0].Acquire(soon(t), key, want)
	if err != nil || got.State != state {
		t.Fatalf("acquire of %s for %s: %+v, %v, want %s", key, want.Token, got, err, state)
	}
	return got
}

// expect fails unless err is want.
func expect(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func testStore(t *testing.T, open func(*testing.T) rig) {
	t.Run("one acquires, others wait, then all have the result byte for byte", func(t *testing.T) {
		r := open(t)
		want := lasting("a")
		want.Hash = "h"
		r.acquire(t, "k", want, wire.SlotAcquired)
		if got := r.acquire(t, "k", lasting("b"), wire.SlotPending); got.Hash != "h" || got.Left <= 0 || got.Left > time.Minute {
			t.Errorf("pending: %+v, want the hash, and a minute left", got)
		}
		result := `{"z": 1,  "a":"\u0000\\x41<é"}`
		expect(t, "commit", r.replicas[1].Commit(soon(t), "k", "a", []byte(result)), nil)
		if got := r.acquire(t, "k", lasting("c"), wire.SlotDone); string(got.Result) != result || got.Hash != "h" {
			t.Errorf("done: %+v, want %s", got, result)
		}
		expect(t, "the same commit again", r.replicas[2].Commit(soon(t), "k", "a", []byte(result)), nil)
		expect(t, "another commit", r.replicas[2].Commit(soon(t), "k", "a", []byte(`1`)), ErrLost)
		expect(t, "abort of what is done", r.replicas[2].Abort(soon(t), "k", "a"), ErrLost)
		if got := r.acquire(t, "k", lasting("d"), wire.SlotDone); string(got.Result) != result {
			t.Errorf("after all that: %s, want %s", got.Result, result)
		}
	})
	t.Run("the answer that was lost can be asked for again", func(t *testing.T) {
		r := open(t)
		r.acquire(t, "k", lasting("a"), wire.SlotAcquired)
		r.acquire(t, "k", lasting("a"), wire.SlotAcquired)
	})
	t.Run("what was aborted is free", func(t *testing.T) {
		r := open(t)
		r.acquire(t, "k", lasting("a"), wire.SlotAcquired)
		expect(t, "abort with another token", r.replicas[1].Abort(soon(t), "k", "b"), ErrLost)
		expect(t, "commit with another token", r.replicas[1].Commit(soon(t), "k", "b", []byte(`1`)), ErrLost)
		expect(t, "abort", r.replicas[1].Abort(soon(t), "k", "a"), nil)
		expect(t, "commit after that", r.replicas[1].Commit(soon(t), "k", "a", []byte(`1`)), ErrLost)
		r.acquire(t, "k", lasting("b"), wire.SlotAcquired)
		expect(t, "late abort", r.replicas[1].Abort(soon(t), "k", "a"), ErrLost)
		expect(t, "commit of the second", r.replicas[1].Commit(soon(t), "k", "b", []byte(`2`)), nil)
		expect(t, "of a key that was never", r.replicas[1].Commit(soon(t), "none", "b", []byte(`2`)), ErrLost)
	})
	t.Run("who is late has lost, before and after another one has acquired", func(t *testing.T) {
		r := open(t)
		late := func(when string) {
			t.Helper()
			expect(t, "late commit "+when, r.replicas[1].Commit(soon(t), "k", "a", []byte(`"late"`)), ErrLost)
			expect(t, "late abort "+when, r.replicas[1].Abort(soon(t), "k", "a"), ErrLost)
		}
		r.acquire(t, "k", brief("a"), wire.SlotAcquired)
		r.expire(t, "k")
		late("of what has expired")
		r.acquire(t, "k", lasting("b"), wire.SlotAcquired)
		late("of another's")
		r.acquire(t, "k", lasting("c"), wire.SlotPending)
		expect(t, "commit", r.replicas[0].Commit(soon(t), "k", "b", []byte(`"mine"`)), nil)
		late("of what another has done")
		if got := r.acquire(t, "k", lasting("c"), wire.SlotDone); string(got.Result) != `"mine"` {
			t.Errorf("the result: %s, want that of who had it", got.Result)
		}
	})
	t.Run("a result is kept for its time", func(t *testing.T) {
		r := open(t)
		want := brief("a")
		want.AcquireTTL = time.Minute
		r.acquire(t, "k", want, wire.SlotAcquired)
		expect(t, "commit", r.replicas[0].Commit(soon(t), "k", "a", []byte(`1`)), nil)
		r.acquire(t, "k", lasting("b"), wire.SlotDone)
		r.expire(t, "k")
		r.acquire(t, "k", lasting("c"), wire.SlotAcquired)
	})
	t.Run("purge and clear remove slots whoever has them", func(t *testing.T) {
		r := open(t)
		for _, key := range []string{"pending", "done", "other"} {
			r.acquire(t, key, lasting("a"), wire.SlotAcquired)
		}
		expect(t, "commit", r.replicas[0].Commit(soon(t), "done", "a", []byte(`1`)), nil)
		for _, key := range []string{"pending", "done"} {
			for _, want := range []int64{1, 0} {
				if n, err := r.replicas[1].Purge(soon(t), key); err != nil || n != want {
					t.Errorf("Purge(%s) = %d, %v, want %d", key, n, err, want)
				}
			}
			expect(t, "commit after purge", r.replicas[0].Commit(soon(t), key, "a", []byte(`1`)), ErrLost)
			r.acquire(t, key, lasting("b"), wire.SlotAcquired)
		}
		if n, err := r.replicas[1].Clear(soon(t)); err != nil || n != 3 {
			t.Errorf("Clear = %d, %v, want 3", n, err)
		}
		r.acquire(t, "other", lasting("c"), wire.SlotAcquired)
	})
	t.Run("keys are of any length and characters", func(t *testing.T) {
		r := open(t)
		keys := []string{"a b.c>*", "ключ", strings.Repeat("k", wire.MaxIdemKey), "A", "a", "tab\t\n"}
		for _, key := range keys {
			r.acquire(t, key, lasting("t"), wire.SlotAcquired)
		}
		for _, key := range keys {
			result := fmt.Sprintf("%q", strings.Repeat("x", wire.MaxIdemResult-2))
			expect(t, "commit", r.replicas[0].Commit(soon(t), key, "t", []byte(result)), nil)
			if got := r.acquire(t, key, lasting("u"), wire.SlotDone); string(got.Result) != result {
				t.Errorf("the result of %q has %d bytes, want %d", key, len(got.Result), len(result))
			}
		}
	})
	t.Run("of many on all replicas exactly one acquires, and one ends", func(t *testing.T) {
		r := open(t)
		for round := range 3 {
			key := fmt.Sprint("k", round)
			if round == 2 { // one that has expired
				r.acquire(t, key, brief("old"), wire.SlotAcquired)
				r.expire(t, key)
			}
			var group sync.WaitGroup
			won, ended := make(chan string, 200), make(chan string, 200)
			for i := range 64 {
				for j, s := range r.replicas {
					token := fmt.Sprint(i, "-", j)
					group.Go(func() {
						got, err := s.Acquire(soon(t), key, lasting(token))
						if err != nil {
							t.Error(err)
						}
						if got.State == wire.SlotAcquired {
							won <- token
						}
					})
				}
			}
			group.Wait()
			if len(won) != 1 {
				t.Fatalf("round %d: %d have acquired, want 1", round, len(won))
			}
			token := <-won
			for i := range 8 {
				s := r.replicas[i%3]
				group.Go(func() {
					var err error
					if i%2 == 0 {
						err = s.Commit(soon(t), key, token, fmt.Append(nil, i))
					} else {
						err = s.Abort(soon(t), key, token)
					}
					if err == nil {
						ended <- fmt.Sprint(i)
					} else if !errors.Is(err, ErrLost) && !errors.Is(err, kv.ErrConflict) {
						t.Error(err)
					}
				})
			}
			group.Wait()
			if len(ended) != 1 {
				t.Errorf("round %d: %d ends counted, want 1", round, len(ended))
			}
		}
	})
	t.Run("what has expired is cleaned away, and nothing else", func(t *testing.T) {
		r := open(t)
		const old = 5
		for i := range old {
			r.acquire(t, fmt.Sprint("old", i), brief("a"), wire.SlotAcquired)
		}
		for i := range old {
			r.expire(t, fmt.Sprint("old", i))
		}
		r.acquire(t, "young", lasting("a"), wire.SlotAcquired)
		total := int64(0)
		for {
			n, err := r.replicas[0].Clean(soon(t), 2)
			if err != nil || n > 2 {
				t.Fatalf("Clean = %d, %v", n, err)
			}
			if total += n; n == 0 {
				break
			}
		}
		if _, inBucket := r.replicas[0].(*Bucket); total != old && !inBucket {
			t.Errorf("cleaned %d, want %d", total, old)
		}
		r.acquire(t, "young", lasting("b"), wire.SlotPending)
		if n, err := r.replicas[0].Clear(soon(t)); err != nil || n != 1 {
			t.Errorf("left: %d, %v, want 1", n, err)
		}
	})
}
