// Package breaker stops asking a backend that does not answer, and notices when
// it does again.
//
//	healthy ── failures in a row ──▶ broken ── after the delay ──▶ probing
//	   ▲                               ▲                             │
//	   │                               └──────── it failed ──────────┤
//	   └───────────────────────── it succeeded ──────────────────────┘
//
// While a breaker is broken every call fails at once; while it is probing one
// call passes, and its outcome decides. What counts as a failure is the caller's
// word: each call that was allowed ends with an [Outcome].
package breaker
