// Package limits is what the ratelimit service, the gateways and workers in Go
// have in common: the arithmetic of a token bucket, and a client that folds what
// many callers want of one key into one request to the replica that prefers it.
package limits
