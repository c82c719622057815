package presence

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
)

// What ends is heard of when it ends, also where nobody asks the store anything.
// The contract's cases ask all the time.
func TestMemoryTellsOfEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(time.Now)
		ctx, stop := context.WithCancel(t.Context())
		heard := make(chan kv.Entry, 16)
		followed := make(chan struct{})
		go func() {
			defer close(followed)
			m.Follow(ctx, func() func(kv.Entry) { return func(e kv.Entry) { heard <- e } }, func() {})
		}()
		began := time.Now()
		putOne(t, m, kv.Write{Key: "later", Value: []byte("1"), TTL: time.Hour})
		putOne(t, m, kv.Write{Key: "sooner", Value: []byte("1"), TTL: time.Minute})
		<-heard
		<-heard
		for _, want := range []struct {
			key string
			ttl time.Duration
		}{{"sooner", time.Minute}, {"later", time.Hour}} {
			e := <-heard
			if took := time.Since(began); e.Key != want.key || !e.Deleted || took < want.ttl || took > want.ttl+time.Second {
				t.Errorf("got %+v after %s, want the end of %s after %s", e, took, want.key, want.ttl)
			}
		}
		stop()
		<-followed
	})
}
