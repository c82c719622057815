// Package fairleadtest runs the whole of Fairlead inside a Go test: a NATS server
// with JetStream, gateways, the presence, the ratelimit and the replay service, on ports of
// their own, in the test's process.
//
//	func TestOrders(t *testing.T) {
//		s := fairleadtest.Start(t)
//		serveOrders(s.NATS()) // the worker under test
//		ann := s.Client("ann")
//		answer, err := ann.Call(t.Context(), "orders.create", order, client.CallOptions{})
//		…
//	}
//
// With [Options.Tasks] there is the tasks service too, on a Postgres of the
// test's own.
//
// It is ready in a fraction of a second, everything ends with the test, and any
// number of stacks run beside each other in parallel tests. It is what `fairlead
// dev` runs, with a few settings made for tests ([Options.Settings]).
//
// # What goes wrong
//
// Every gateway reaches NATS, and is reached by clients, over a [Link] that a
// test can disturb:
//
//	s.Gateway(0).Kill()                    // as a crash: no goodbye to anybody
//	s.Gateway(0).Stop()                    // as SIGTERM: clients are asked to leave
//	s.Gateway(0).CutNATS()                 // …and RestoreNATS
//	s.CutNATS()                            // all of them, and the services
//	s.CutPostgres()                        // …and RestorePostgres
//	link := s.Link(0)                      // a way of its own for some clients
//	ann := s.Client("ann", fairleadtest.Through(link))
//	link.Drop(1, fairleadtest.OfTopic("chat.lobby")) // ann never gets the next message
//	link.Delay(50 * time.Millisecond)
//	link.Stall()                           // nothing passes, and no end notices
//
// Time is not faked: services, JetStream and clients each have their own, and a
// clock that only some of them believed would test something that can't happen.
// What would take long is made short by settings instead: a gateway's lease is
// two seconds here rather than ten, and a rule's leaveDelay or ttl is the test's
// to choose.
package fairleadtest
