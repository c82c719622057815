// Package idem has work done once for a key: whoever acquires the key's slot does
// the work and commits its result, which everybody else is given.
//
//	        acquire                     commit
//	(none) ────────▶ pending, a token ────────▶ done, a result
//	   ▲                    │                        │
//	   └──── abort, or acquireTTL is over            │
//	   └──────────────────────────────── ttl is over ┘
//
// The token is the right to commit or abort. One whose slot expired, or was
// purged, has lost it, also after somebody else has acquired the slot: what is
// committed is never overwritten or taken back. So the work may be done twice,
// by one who takes longer than its acquireTTL, but there is one result.
//
// Slots are kept in Postgres, or in a key-value bucket of JetStream. Both keep
// the promises of [Store]; a bucket with one replica may forget what it
// acknowledged when the power of its server fails.
package idem
