package integration

import (
	"errors"
	"sync"
	"testing"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Work for a key is done once, wherever its slots are kept.
func TestIdem(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"postgres", "kv"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			s := bareTasks(t, 3, "FAIRLEAD_TASKS_IDEM="+where)
			eventually(t, "slots are kept", func() (any, bool) {
				err := s.raw("idem.purge", `{"key":"first"}`, nil)
				return err, err == nil
			})
			refused := func(endpoint, body, reason string) {
				t.Helper()
				var e *wire.Error
				if err := s.raw(endpoint, body, nil); !errors.As(err, &e) || e.Code != wire.FailedPrecondition || e.Details["reason"] != reason {
					t.Errorf("%s %s: %v, want FAILED_PRECONDITION, %s", endpoint, body, err, reason)
				}
			}
			acquire := func(body string, want wire.SlotState) wire.IdemAcquired {
				t.Helper()
				got := askTasks[wire.IdemAcquired](s, "idem.acquire", body)
				if got.State != want {
					t.Fatalf("acquire %s: %+v, want %s", body, got, want)
				}
				return got
			}
			// Many at the same time, over all replicas.
			var mu sync.Mutex
			var group sync.WaitGroup
			var token string
			won := 0
			for range 64 {
				group.Go(func() {
					got := wire.IdemAcquired{}
					if err := s.raw("idem.acquire", `{"key":"pay 1","hash":"one"}`, &got); err != nil {
						t.Error(err)
					}
					mu.Lock()
					defer mu.Unlock()
					if got.State == wire.SlotAcquired {
						won++
						token = got.Token
					} else if got.State != wire.SlotPending || got.RetryAfterMs <= 0 {
						t.Errorf("got %+v, want pending", got)
					}
				})
			}
			group.Wait()
			if won != 1 {
				t.Fatalf("%d have acquired, want 1", won)
			}
			refused("idem.acquire", `{"key":"pay 1","hash":"two"}`, "hash")
			refused("idem.commit", `{"key":"pay 1","token":"another","result":1}`, "lost")
			askTasks[struct{}](s, "idem.commit", `{"key":"pay 1","token":"`+token+`","result":{"paid":  true}}`)
			askTasks[struct{}](s, "idem.commit", `{"key":"pay 1","token":"`+token+`","result":{"paid":  true}}`)
			refused("idem.abort", `{"key":"pay 1","token":"`+token+`"}`, "lost")
			if got := acquire(`{"key":"pay 1","hash":"one"}`, wire.SlotDone); string(got.Result) != `{"paid":  true}` {
				t.Errorf("the result: %s, want it byte for byte", got.Result)
			}
			// One who takes too long has lost, also when another has done it.
			late := acquire(`{"key":"slow","acquireTTL":"1s"}`, wire.SlotAcquired)
			var second wire.IdemAcquired
			eventually(t, "another one acquires", func() (any, bool) {
				second = askTasks[wire.IdemAcquired](s, "idem.acquire", `{"key":"slow"}`)
				return second, second.State == wire.SlotAcquired
			})
			refused("idem.commit", `{"key":"slow","token":"`+late.Token+`","result":"late"}`, "lost")
			refused("idem.abort", `{"key":"slow","token":"`+late.Token+`"}`, "lost")
			askTasks[struct{}](s, "idem.abort", `{"key":"slow","token":"`+second.Token+`"}`)
			acquire(`{"key":"slow"}`, wire.SlotAcquired)
			if got := askTasks[wire.IdemCount](s, "idem.clear", `{}`); got.Count < 2 {
				t.Errorf("cleared %d, want the two at least", got.Count)
			}
			acquire(`{"key":"pay 1","hash":"two"}`, wire.SlotAcquired)
		})
	}
}
