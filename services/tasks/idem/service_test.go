package idem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestRequests(t *testing.T) {
	s := newService(NewMemory(time.Now), nil, nil, nil)
	ctx := t.Context()
	first, err := s.Acquire(ctx, wire.IdemAcquire{Key: "k", Hash: "one"})
	if err != nil || first.State != wire.SlotAcquired || first.Token == "" {
		t.Fatalf("Acquire = %+v, %v", first, err)
	}
	second, err := s.Acquire(ctx, wire.IdemAcquire{Key: "k"})
	if err != nil || second.State != wire.SlotPending || second.Token != "" || second.RetryAfterMs <= 0 || second.RetryAfterMs > 1000 {
		t.Errorf("Acquire = %+v, %v, want pending", second, err)
	}
	reason := func(err error) any {
		var coded *wire.Error
		if !errors.As(err, &coded) || coded.Code != wire.FailedPrecondition {
			return err
		}
		return coded.Details["reason"]
	}
	if _, err := s.Acquire(ctx, wire.IdemAcquire{Key: "k", Hash: "two"}); reason(err) != "hash" {
		t.Errorf("another hash while it is pending: %v, want FAILED_PRECONDITION", err)
	}
	large := json.RawMessage(fmt.Sprintf("%q", strings.Repeat("x", wire.MaxIdemResult)))
	if _, err := s.Commit(ctx, wire.IdemCommit{Key: "k", Token: first.Token, Result: large}); !errors.Is(err, wire.ErrInvalidArgument) {
		t.Errorf("a result that is too large: %v, want INVALID_ARGUMENT", err)
	}
	if got, err := s.Acquire(ctx, wire.IdemAcquire{Key: "k"}); err != nil || got.State != wire.SlotPending {
		t.Errorf("after that: %+v, %v, want pending", got, err)
	}
	if _, err := s.Commit(ctx, wire.IdemCommit{Key: "k", Token: "other"}); reason(err) != "lost" {
		t.Errorf("commit with another token: %v, want FAILED_PRECONDITION", err)
	}
	if _, err := s.Commit(ctx, wire.IdemCommit{Key: "k", Token: first.Token}); err != nil {
		t.Error(err)
	}
	if _, err := s.Abort(ctx, wire.IdemAbort{Key: "k", Token: first.Token}); reason(err) != "lost" {
		t.Errorf("abort of what is done: %v, want FAILED_PRECONDITION", err)
	}
	done, err := s.Acquire(ctx, wire.IdemAcquire{Key: "k", Hash: "one"})
	if err != nil || string(done.AppendJSON(nil)) != `{"state":"done","result":null}` {
		t.Errorf("Acquire = %s, %v, want done with null", done.AppendJSON(nil), err)
	}
	if _, err := s.Acquire(ctx, wire.IdemAcquire{Key: "k", Hash: "two"}); reason(err) != "hash" {
		t.Errorf("another hash of what is done: %v, want FAILED_PRECONDITION", err)
	}
	var tokens []string
	for _, req := range []wire.IdemAcquire{{Key: "asked", ID: "a"}, {Key: "asked", ID: "a"}, {Key: "asked", ID: "b"}, {Key: "asked"}, {Key: "other", ID: "a"}} {
		got, err := s.Acquire(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, got.Token)
	}
	if tokens[0] == "" || tokens[1] != tokens[0] || tokens[2] != "" || tokens[3] != "" || tokens[4] == tokens[0] || tokens[4] == "" {
		t.Errorf("the tokens of who asks again, and of others, are %q", tokens)
	}
	for _, req := range []wire.IdemAcquire{
		{}, {Key: strings.Repeat("k", 1025)}, {Key: "a\x00"}, {Key: "k", AcquireTTL: "1ms"}, {Key: "k", TTL: "forever"}, {Key: "k", Hash: strings.Repeat("h", 129)}, {Key: "k", ID: strings.Repeat("i", 129)},
	} {
		if _, err := s.Acquire(ctx, req); !errors.Is(err, wire.ErrInvalidArgument) {
			t.Errorf("Acquire(%+v): %v, want INVALID_ARGUMENT", req, err)
		}
	}
	if err := (Config{Where: "redis"}).Validate(); err == nil || !strings.Contains(err.Error(), "FAIRLEAD_TASKS_IDEM") {
		t.Errorf("a store that is none: %v", err)
	}
}

// A replica makes its bucket when NATS is there, and says so of its absence.
func TestBucketAway(t *testing.T) {
	server := natsdev.Test(t)
	nc, err := nats.Connect(server.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	server.Shutdown()
	s, err := New(Config{Where: InKV}, Deps{NATS: nc, Namespace: wire.DefaultNamespace, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if _, err := s.Acquire(soon(t), wire.IdemAcquire{Key: "k"}); !errors.Is(err, wire.ErrUnavailable) {
		t.Errorf("without NATS: %v, want UNAVAILABLE", err)
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ctx := soon(t); ; {
		got, err := s.Acquire(ctx, wire.IdemAcquire{Key: "k"})
		if err == nil && got.State == wire.SlotAcquired {
			return
		}
		if err != nil && !errors.Is(err, wire.ErrUnavailable) || ctx.Err() != nil {
			t.Fatalf("when NATS is back: %+v, %v", got, err)
		}
		<-tick.C
	}
}

func FuzzSlot(f *testing.F) {
	s := slot{Token: "t", TTL: time.Hour, Done: true, Result: []byte(`{"a":1}`)}
	good, err := s.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeSlot(data)
		if err != nil {
			return
		}
		again, err := s.encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeSlot(again); err != nil || back.Token != s.Token || string(back.Result) != string(s.Result) || back.Done != s.Done {
			t.Errorf("%+v became %+v, %v", s, back, err)
		}
	})
}
