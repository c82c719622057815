// Package fairlead is the backend's side of Fairlead in Go: publish to topics,
// users and connections, answer the calls of clients, ask them, see who is
// there, do work that must finish. It works over one NATS connection, which
// stays the caller's.
//
//	nc, err := nats.Connect(nats.DefaultURL, nats.MaxReconnects(-1))
//	f := fairlead.New(nc, fairlead.Options{})
//	err = f.Publish(ctx, "chat.lobby", "message", Text{"hi"}, fairlead.PublishOptions{})
//	_, err = fairlead.Handle(f, "orders.create", createOrder, fairlead.HandleOptions{})
//	_, err = fairlead.Work(f, "orders.ship", shipOrder, fairlead.WorkOptions{})
//
// Nothing here is more than NATS messages with a few headers: a worker in any
// language does the same with its NATS library, and docs/workers.md of the
// project shows how.
//
// # Data
//
// What is sent is encoded as by encoding/json, without escaping for HTML. A
// json.RawMessage or a []byte is JSON already and goes out byte for byte; nil is
// null.
//
// # Errors
//
// Errors whose cause the caller can act on are a [*wire.Error], also behind
// errors.As; errors.Is(err, wire.ErrNotFound) and its siblings tell the codes
// apart. Where NATS is away it is UNAVAILABLE, and `outcome` in its details says
// "none" where nothing was done for certain, else "unknown".
//
// # Time
//
// Every method waits at most until its context ends, or for [Options.Timeout]
// where the context has no deadline. What waits for the end of something
// ([Run], [Await], [Tasks.Watch], a drain) waits as long as it takes then.
package fairlead
