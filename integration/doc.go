// Package integration holds the black-box tests: they build the binary once,
// run it as separate processes, and look at it only through WebSockets, HTTP,
// NATS and its exit codes. There is one file per promise, and the tests in it
// are named as what is promised.
//
//	go test ./integration                                  # needs Go, and Postgres for the archive
//	go test -race ./integration                            # the binary is built with the race detector too
//	go test -tags browser -run Browser ./integration       # needs Chromium and Node
//
// # On a stack that is there
//
// With FAIRLEAD_URL (one or more WebSocket addresses of gateways, by comma) and
// FAIRLEAD_NATS_URL (of a worker) set, the tests that can run against a stack
// that is already there do so, one after another, with tokens signed by
// FAIRLEAD_AUTH_JWT_SECRET. The others, which start, kill or cut off processes of
// their own, are left out, and one line at the end says how many:
//
//	docker compose up -d --build --wait --scale gateway=2
//	set -a; . ./.env; set +a
//	export FAIRLEAD_URL=ws://127.0.0.1:8080/ws
//	export FAIRLEAD_NATS_URL=nats://worker:$NATS_WORKER_PASSWORD@127.0.0.1:4222
//	export FAIRLEAD_TEST_OPERATOR_URL=nats://operator:$NATS_OPERATOR_PASSWORD@127.0.0.1:4222
//	cd integration && go test        # ./integration from above shows the line with -v only
//
// FAIRLEAD_TEST_OPERATOR_URL is for what operators do, and for `fairlead rules
// apply`: while the tests run, rules for topics, groups and methods below "it."
// and limits "it-…" stand before those of the stack, which are as they were
// afterwards. What is left behind is a stream, FL_IT-CHAT, whose messages last an
// hour. Without the variable only those tests run that need no rules but what a
// user may do by default. A user of NATS with a password, as in these addresses,
// hears replies under _INBOX_<user>.
package integration
