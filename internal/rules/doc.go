// Package rules holds what topics, calls, groups and limits may do: the rules
// file, parsed and validated as one immutable [Set].
//
// # How a rule is found
//
// The rules of a file are tried in order and the first whose `match` covers a
// topic governs it, whoever asks. A placeholder token, `{user}` or
// `{attr.org}`, covers any one token while the rule is searched for; only then
// the caller is refused unless the token is the caller's own value, escaped as
// [wire.EscapeToken] does. So `user.{user}.>` keeps everybody else out, and
// never lets them fall through to a later `>`; and a topic has one stream, one
// slow policy and one class whoever looks at it.
//
// A wildcard subscription meets every rule that overlaps it, in order, until
// one covers it whole. Each of them must have `wildcards: true` and grant the
// caller; a pattern that no single rule covers is denied.
//
// # Who decides
//
// [Set.Decide] is the one decision: the rules and the lists of the token, both
// of which must allow. It is pure, and on an allowed topic it does not
// allocate, because every publish goes through it.
//
// # Where the rules live
//
// In the bucket `<namespace>_config` under the key `rules`, as the canonical
// JSON of [Set.Canonical] with the defaults resolved. What is there counts for
// every process; [Live] follows it:
//
//	               bucket cannot be reached      value is bad
//	start: file ──────────────┐              ┌── keep the last good set
//	       or built-in ──► not ready ──► ready ─► every change applied at once
//	                          └── JetStream is off: ready, file or built-in
//
// A value written by a newer release may hold keys that this one does not
// know: there they are ignored, in a file they are errors.
package rules
