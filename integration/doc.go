// Package integration holds the black-box tests: they build the binary once,
// run it as separate processes, and look at it only through WebSockets, HTTP,
// NATS and its exit codes. There is one file per promise, and the tests in it
// are named as what is promised.
//
//	go test ./integration                                  # needs Go, and Postgres for the archive
//	go test -race ./integration                            # the binary is built with the race detector too
//	go test -tags browser -run Browser ./integration       # needs Chromium and Node
//
// With FAIRLEAD_URL (one or more WebSocket addresses of gateways, by comma) and
// FAIRLEAD_NATS_URL set, the tests that can run against a stack that is already
// there do so, with tokens signed by FAIRLEAD_AUTH_JWT_SECRET. The others start
// their own processes as always.
package integration
