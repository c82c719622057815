package bus

import (
	"context"
	"reflect"
	"time"
)

// Endpoint is one thing a service answers. [Handle] makes it; the optional
// fields may be set before [Serve].
type Endpoint struct {
	// Name in discovery and metrics; a dot in it (cron.set) is shown as a dash.
	Name string
	// Subject on which requests come.
	Subject string
	// Workers bounds how many requests of this endpoint are worked on at the
	// same time in this process; [ServeConfig.Workers] when 0.
	Workers int
	// Timeout is how long one request may take; [ServeConfig.Timeout] when 0.
	// An endpoint that waits on behalf of its caller needs more.
	Timeout time.Duration
	// LeastTime is what a caller's deadline (Fl-Deadline) that is nearer counts as;
	// 0: deadlines count as they are. It is by the caller's clock: where that of
	// this host is ahead by more than a short deadline, every request would be too
	// late.
	LeastTime time.Duration
	// Everyone makes every replica answer instead of one of the queue group.
	Everyone bool

	work           func(ctx context.Context, request []byte) (reply []byte, err error)
	begin          func(ctx context.Context, request []byte, answer func(reply []byte, err error)) // instead of work
	request, reply string                                                                          // JSON schemas
}

// Handle makes an endpoint of an ordinary function. The request is decoded from
// JSON (unknown fields ignored, wrong ones INVALID_ARGUMENT that names the
// field, an empty body is {}), the reply encoded to JSON. An error of fn
// reaches the caller as its *wire.Error; any other is INTERNAL for the caller
// and a line in our log. fn is called concurrently, with a deadline and the
// caller's trace in ctx; it should return when ctx ends.
func Handle[Req, Rep any](name, subject string, fn func(context.Context, Req) (Rep, error)) Endpoint {
	return Endpoint{
		Name:    name,
		Subject: subject,
		request: schema(reflect.TypeFor[Req]()),
		reply:   schema(reflect.TypeFor[Rep]()),
		work: func(ctx context.Context, data []byte) ([]byte, error) {
			var req Req
			if err := decode(data, &req); err != nil {
				return nil, err
			}
			rep, err := fn(ctx, req)
			if err != nil {
				return nil, err
			}
			return encode(rep)
		},
	}
}

// HandleLater makes an endpoint whose work goes on after its function has returned,
// such as what is written together with others: no goroutine waits for each request.
// fn begins the work and calls answer when it is done, from anywhere; only the first
// call counts. fn is called by one goroutine and must not block. ctx carries the
// caller's trace and no deadline: who was not answered by then is told
// DEADLINE_EXCEEDED a moment later, whatever the work does. Otherwise it is like
// [Handle].
func HandleLater[Req, Rep any](name, subject string, fn func(ctx context.Context, req Req, answer func(Rep, error))) Endpoint {
	return Endpoint{
		Name:    name,
		Subject: subject,
		request: schema(reflect.TypeFor[Req]()),
		reply:   schema(reflect.TypeFor[Rep]()),
		begin: func(ctx context.Context, data []byte, answer func([]byte, error)) {
			var req Req
			if err := decode(data, &req); err != nil {
				answer(nil, err)
				return
			}
			fn(ctx, req, func(rep Rep, err error) {
				if err != nil {
					answer(nil, err)
					return
				}
				answer(encode(rep))
			})
		},
	}
}
