package tasks

import (
	"time"

	"github.com/fairlead-io/fairlead/internal/bus"
)

const (
	// workers is how many requests of one endpoint a replica works on at a time: they
	// wait for Postgres, many for the same write.
	workers = 4096
	// waiters is the same of those that wait for the end of a task.
	waiters = 16384
	// readers is the same of what reads many rows.
	readers = 16
	// waitSlack is what a wait may take beyond what it is asked for.
	waitSlack = 10 * time.Second
	// scanTimeout bounds what reads many rows.
	scanTimeout = scanWait + time.Second
)

// endpoints are what the service answers.
func (s *Service) endpoints() []bus.Endpoint {
	at := func(name string) string { return s.cfg.Namespace.Svc("tasks", name) }
	run, await := bus.Handle("run", at("run"), s.RunTask), bus.Handle("await", at("await"), s.Await)
	for _, e := range []*bus.Endpoint{&run, &await} {
		e.Workers, e.Timeout = waiters, maxWait+waitSlack
	}
	list, counts := bus.Handle("list", at("list"), s.List), bus.Handle("counts", at("counts"), s.Counts)
	for _, e := range []*bus.Endpoint{&list, &counts} {
		e.Workers, e.Timeout = readers, scanTimeout
	}
	hello := bus.Handle("hello", at("hello"), s.Hello)
	hello.Everyone = true // each replica parks names by itself
	return append([]bus.Endpoint{
		run, await, list, counts, hello,
		bus.Handle("register", at("register"), s.Register),
		bus.HandleLater("enqueue", at("enqueue"), s.Enqueue),
		bus.Handle("get", at("get"), s.Get),
		bus.Handle("cancel", at("cancel"), s.Cancel),
		bus.Handle("retry", at("retry"), s.Retry),
		bus.Handle("takeover", at("takeover"), s.Takeover),
		bus.Handle("heartbeat", at("heartbeat"), s.Heartbeat),
		bus.Handle("complete", at("complete"), s.Complete),
		bus.Handle("fail", at("fail"), s.Fail),
		bus.Handle("step", at("step"), s.Step),
	}, s.parts.endpoints(at)...)
}
