// Package compose proves the stack that compose.yaml describes: it brings it up
// with a real engine, from the very files that users get, lets 200 WebSocket
// clients and two plain NATS workers talk all the time, and breaks one part after
// the other while they do.
//
//	go test ./integration/compose                          # the checkers alone: no Docker
//	go test -tags compose ./integration/compose            # needs Docker with compose, and a few minutes
//	go test -tags compose ./integration/compose -args -report   # the same, and writes the table of docs/reliability.md
//
// What was said and heard is written down by crowd_test.go and worker_test.go, and
// judged by checkers that know nothing of Docker: messages_test.go, roster_test.go,
// tasks_test.go, limits_test.go, permitted_test.go and outcome_test.go, each with
// tests of what it must notice. stack_test.go knows how to break things,
// faults_test.go says which, and in which order, and proof_test.go what must hold
// after each. .ci/compose installs what is missing and runs it.
package compose
