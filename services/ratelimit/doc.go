// Package ratelimit is the service that counts: token buckets whose policies are
// the limits of the rules, one entry of a bucket for each key, exact however many
// replicas and gateways there are.
//
// Everything that waits for one key in a replica is decided together and stored
// by one write that expects the revision it was decided on: that is what makes it
// exact. Each key is preferred by one of the replicas, so that they rarely meet
// on one; nothing but speed depends on it. Time is that of the NATS server, and
// never goes back.
package ratelimit
