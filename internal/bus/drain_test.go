package bus

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/natsdev"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

func TestRequestInFlightSurvivesDrain(t *testing.T) {
	server := natsdev.Test(t)
	closed := make(chan struct{}, 2)
	nc, caller := connect(t, server, Hooks{OnClosed: func() { closed <- struct{}{} }}), connect(t, server, Hooks{})
	started, release := make(chan struct{}), make(chan struct{})
	s := serve(t, nc, ServeConfig{}, Handle("slow", "fl.svc.test.slow", func(ctx context.Context, e echo) (echo, error) {
		close(started)
		<-release
		return e, ctx.Err()
	}))
	type result struct {
		e   echo
		err error
	}
	replied := make(chan result, 1)
	go func() {
		e, err := Call[echo, echo](t.Context(), caller, "fl.svc.test.slow", echo{Text: "hold on"})
		replied <- result{e, err}
	}()
	await(t, "the request", started)

	drained := make(chan error, 1)
	go func() {
		err := s.Drain(t.Context())
		drained <- errors.Join(err, Drain(t.Context(), nc))
	}()
	eventually(t, "new callers to be turned away", func() bool {
		_, err := Call[echo, echo](t.Context(), caller, "fl.svc.test.slow", echo{})
		return errors.Is(err, wire.ErrUnavailable)
	})
	select {
	case err := <-drained:
		t.Fatalf("drained (%v) with a request in flight", err)
	default:
	}
	close(release)
	if err := await(t, "the drain", drained); err != nil {
		t.Errorf("drain: %v", err)
	}
	if r := await(t, "the reply", replied); r.err != nil || r.e.Text != "hold on" {
		t.Errorf("request in flight got %v, %v", r.e, r.err)
	}
	if len(closed) != 1 {
		t.Errorf("OnClosed called %d times before Drain returned, want 1", len(closed))
	}
}

func TestDrainThatRunsOutOfTimeEndsRequests(t *testing.T) {
	nc := connect(t, natsdev.Test(t), Hooks{})
	started := make(chan struct{})
	s, err := Serve(nc, Service{Name: "s"}, ServeConfig{}, Handle("stuck", "fl.svc.test.stuck", func(ctx context.Context, _ struct{}) (struct{}, error) {
		close(started)
		<-ctx.Done()
		return struct{}{}, ctx.Err()
	}))
	if err != nil {
		t.Fatal(err)
	}
	replied := make(chan error, 1)
	go func() {
		_, err := Call[struct{}, struct{}](t.Context(), nc, "fl.svc.test.stuck", struct{}{})
		replied <- err
	}()
	await(t, "the request", started)
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	if err := s.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drain: %v, want that time ran out", err)
	}
	if err := await(t, "the reply", replied); !errors.Is(err, wire.ErrUnavailable) {
		t.Errorf("request got %v, want UNAVAILABLE", err)
	}
}

func TestDrainHandlesWhatHasArrived(t *testing.T) {
	server := natsdev.Test(t)
	nc, publisher := connect(t, server, Hooks{}), connect(t, server, Hooks{})
	const n = 100
	gate, handled := make(chan struct{}), make(chan struct{}, n)
	sub, err := nc.Subscribe("x", func(*nats.Msg) { <-gate; handled <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for range n {
		if err := publisher.Publish("x", nil); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the messages", func() bool { p, _, _ := sub.Pending(); return p >= n-1 })
	drained := make(chan error, 1)
	go func() { drained <- Drain(t.Context(), nc) }()
	close(gate)
	if err := await(t, "the drain", drained); err != nil {
		t.Error(err)
	}
	if got := len(handled); got != n {
		t.Errorf("handled %d messages before the close, want %d", got, n)
	}
}

func TestDrainGivesUpWithItsContext(t *testing.T) {
	server := natsdev.Test(t)
	nc := connect(t, server, Hooks{})
	gate, started := make(chan struct{}), make(chan struct{})
	if _, err := nc.Subscribe("x", func(*nats.Msg) { close(started); <-gate }); err != nil {
		t.Fatal(err)
	}
	defer close(gate)
	if err := nc.Publish("x", nil); err != nil {
		t.Fatal(err)
	}
	await(t, "the message", started)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := Drain(ctx, nc); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drain: %v, want that time ran out", err)
	}
	if !nc.IsClosed() {
		t.Error("the connection is not closed")
	}
	if err := Drain(t.Context(), nc); err != nil {
		t.Errorf("drain of a closed connection: %v", err)
	}
}

func TestDrainWithoutNATS(t *testing.T) {
	server := natsdev.Test(t)
	lost := make(chan struct{}, 1)
	nc := connect(t, server, Hooks{OnDisconnect: func(error) { lost <- struct{}{} }})
	s := serve(t, nc, ServeConfig{}, Handle("echo", "fl.svc.test.echo", echoing))
	server.Shutdown()
	await(t, "the disconnect", lost)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	started := time.Now()
	if err := s.Drain(ctx); err != nil {
		t.Errorf("drain of the service: %v", err)
	}
	if err := Drain(ctx, nc); err != nil {
		t.Errorf("drain of the connection: %v", err)
	}
	if took := time.Since(started); took > patience/2 {
		t.Errorf("took %s with nothing to wait for", took)
	}
}
