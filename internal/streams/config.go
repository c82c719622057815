// Package streams knows the JetStream streams that keep replayed topics: how
// the stream of a rule is set up, and how a message is stored in it. Whoever
// needs a stream may make it; the replay service changes it as its rule changes.
package streams

import (
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// Memory is how long the newest message of a topic outlives the rule's ttl,
	// as evidence: so long a position on an idle topic can be proven.
	Memory = 7 * 24 * time.Hour

	// dedupeWindow is the longest window the stream itself remembers message
	// ids for: each costs broker memory.
	dedupeWindow = 2 * time.Minute

	// headerRoom is added to the largest payload: a stream's bound counts
	// headers too.
	headerRoom = 8 << 10

	// archiveFactor and archiveAge are what a stream with an archive keeps at
	// least beyond its rule, so that a copier that was away finds what it missed.
	archiveFactor = 10
	archiveAge    = time.Hour

	metaRule  = "fairlead.rule"  // in a stream's metadata: the name of its rule
	metaGrown = "fairlead.grown" // and how much it kept before it kept more
)

// Kept returns how many messages of each topic the stream of a rule holds: one
// more than the rule promises, which proves the position of who has seen it.
func Kept(r *rules.Replay) int {
	if r.Archive {
		return archiveFactor*r.Size + 1
	}
	return r.Size + 1
}

// Config returns the stream of a rule with replay. replicas counts where the
// rule names none.
func Config(rule *rules.Topic, ns wire.Namespace, replicas int) (jetstream.StreamConfig, error) {
	source, err := ns.Topic(rule.Glob())
	if err != nil {
		return jetstream.StreamConfig{}, err
	}
	destination, err := ns.Seq(mapped(rule.Glob()))
	if err != nil {
		return jetstream.StreamConfig{}, err
	}
	r := rule.Replay
	if r.Replicas > 0 {
		replicas = r.Replicas
	}
	var age time.Duration
	if r.TTL > 0 {
		age = r.TTL + Memory
	}
	if r.Archive && age > 0 {
		age = max(age, archiveAge)
	}
	maxBytes := r.MaxBytes
	if maxBytes == 0 {
		maxBytes = -1
	}
	size := int64(-1)
	if r.MaxMessageBytes > 0 {
		size = r.MaxMessageBytes + headerRoom
	}
	return jetstream.StreamConfig{
		Name:        rule.Stream(ns),
		Description: "Fairlead rule " + rule.Name + ": what is published to " + source + ", numbered and republished to " + destination,
		Subjects:    []string{source},
		Storage:     jetstream.FileStorage, // a memory stream forgets its sequences
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		Replicas:    max(replicas, 1),

		MaxMsgs:           -1,
		MaxMsgsPerSubject: int64(Kept(r)),
		MaxAge:            age,
		MaxBytes:          maxBytes,
		MaxMsgSize:        int32(min(size, 1<<30)),
		Duplicates:        Window(r),
		MaxConsumers:      -1,

		AllowDirect:        true,
		DenyDelete:         true, // a topic loses its oldest messages only
		AllowAtomicPublish: true,
		RePublish:          &jetstream.RePublish{Source: source, Destination: destination},
		Metadata:           map[string]string{metaRule: rule.Name},
	}, nil
}

// Window returns how long the stream of a rule itself remembers message ids.
func Window(r *rules.Replay) time.Duration {
	window := min(r.Dedupe, dedupeWindow)
	if r.TTL > 0 {
		window = min(window, r.TTL+Memory)
	}
	return max(window, 100*time.Millisecond) // less is not allowed, 0 means the server's default
}

// mapped returns a pattern whose wildcards name those of the source, in order.
func mapped(glob string) string {
	if !strings.Contains(glob, "*") {
		return glob
	}
	tokens := strings.Split(glob, ".")
	n := 0
	for i, t := range tokens {
		if t == "*" {
			n++
			tokens[i] = "{{wildcard(" + strconv.Itoa(n) + ")}}"
		}
	}
	return strings.Join(tokens, ".")
}

// retired is the configuration of a stream whose rule is gone: it keeps what it
// has, takes nothing, and republishes nothing.
func retired(cfg jetstream.StreamConfig, ns wire.Namespace) jetstream.StreamConfig {
	cfg.Subjects = []string{string(ns) + ".retired." + cfg.Name}
	cfg.RePublish = nil
	return cfg
}
