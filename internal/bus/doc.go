// Package bus is how services meet on NATS: a connection with our defaults,
// typed request/reply endpoints that `nats micro ls` lists, calls to them, the
// reply guard and the trace carrier.
//
// # Why the service is not a micro.Service
//
// The package speaks the micro protocol (the types and subjects are those of
// nats.go/micro) and does not run micro's framework, because
//
//   - its $SRV.PING, INFO and STATS answer any reply subject and offer no hook:
//     whoever may publish to $SRV.PING could make a service publish to
//     $JS.API.STREAM.PURGE.X with the service's rights (docs/nats.md, Replies);
//   - it runs the handlers of one endpoint one after the other, without
//     context or deadline, so a pool is needed beside it anyway;
//   - its Stop returns before anything is drained, and it keeps process-wide
//     state per connection.
//
// What remains of it is the discovery in discovery.go.
//
// # A request
//
//	message ─► reply guard ─► pool (full: RESOURCE_EXHAUSTED at once)
//	        ─► deadline, trace ─► decode ─► fn ─► encode ─► guard ─► reply
//
// Errors are answered with the headers Nats-Service-Error-Code and
// Nats-Service-Error; [Call] turns them back into *wire.Error, so that
// errors.Is(err, wire.ErrNotFound) works on both sides.
//
// # Stopping
//
// [Served.Drain] takes the endpoints off the server, lets requests in flight
// finish, and flushes their replies. [Drain] then ends the connection.
package bus
