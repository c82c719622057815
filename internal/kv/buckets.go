package kv

import (
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// The buckets that more than one service knows.

// Gateways is the bucket of the gateways' leases.
func Gateways(replicas int) Config {
	return Config{Name: "gateways", Description: "Leases of Fairlead gateways", Replicas: replicas, MarkerTTL: time.Hour}
}

// Presence is the bucket that says who is on which topic.
func Presence(ns wire.Namespace, replicas int) Config {
	return Config{Name: "presence", Description: "Who is on which topic", Replicas: replicas, Republish: string(ns) + ".presence"}
}

// Connections is the bucket that says which connections a user has.
func Connections(replicas int) Config {
	return Config{Name: "connections", Description: "Which connections a user has", Replicas: replicas}
}

// Groups is the bucket of groups and their members.
func Groups(ns wire.Namespace, replicas int) Config {
	return Config{Name: "groups", Description: "Groups and their members", Replicas: replicas, Republish: string(ns) + ".groups"}
}

// Limits is the bucket of the token buckets: a value for each key, which ends
// when it says no more than one that is not there. It is read from the leader
// alone, and nobody watches it.
func Limits(replicas int) Config {
	return Config{Name: "ratelimit", Description: "What keys have left of the limits", Replicas: replicas, NoMarkers: true}
}

// Locks is the bucket of the locks: a value for each key that is held or was a
// moment ago. Its entries are read from the leader alone, and leave no trace.
func Locks(ns wire.Namespace, replicas int) Config {
	return Config{Name: "locks", Description: "Who has which lock, and who waits for it", Replicas: replicas, NoMarkers: true, Republish: string(ns) + ".locks"}
}

// Sessions is the bucket of what HTTP servers keep of their visitors.
func Sessions(replicas int) Config {
	return Config{Name: "sessions", Description: "Sessions of HTTP servers", Replicas: replicas}
}

// Shared is the bucket of what every process has to know: the rules, whose
// earlier ones are kept for people, and which tokens were revoked. In a bucket
// with a history nothing that has a TTL ends sooner than a marker does.
func Shared(replicas int) Config {
	return Config{Name: "config", Description: "Fairlead rules; `fairlead rules apply` replaces them", Replicas: replicas, History: 10}
}
