package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/streams"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	setupWait = 5 * time.Second
	metaRule  = "fairlead.rule" // in a bucket's metadata: the name of its rule
)

// Needed reports whether a rule promises more than its stream remembers.
func Needed(r *rules.Replay) bool { return r != nil && r.Dedupe > streams.Window(r) }

// Bucket returns the name of a rule's bucket. Each rule has its own: the time to
// live and the bound are the rule's.
func Bucket(ns wire.Namespace, rule *rules.Topic) string {
	return ns.Bucket("dedupe_" + strings.ToUpper(rule.Name))
}

// Stream returns the name of the stream behind a bucket.
func Stream(bucket string) string { return "KV_" + bucket }

func subject(bucket, key string) string { return "$KV." + bucket + "." + key }

// headroom is how many keys a bucket takes above the rule's bound. What knows
// the bound stops at it, a moment late; a worker that publishes ids straight
// into the stream does not ask.
func headroom(keys int) int64 { return int64(keys)/8 + 1024 }

// Config returns the stream behind the bucket of a rule. It is laid out as a KV
// bucket, with the one bound that those can't have: how many keys. replicas
// counts where the rule names none.
func Config(ns wire.Namespace, rule *rules.Topic, replicas int) jetstream.StreamConfig {
	r := rule.Replay
	if r.Replicas > 0 {
		replicas = r.Replicas
	}
	bucket := Bucket(ns, rule)
	return jetstream.StreamConfig{
		Name:              Stream(bucket),
		Description:       "Fairlead rule " + rule.Name + ": the message ids that its stream has stored",
		Subjects:          []string{"$KV." + bucket + ".>"},
		Storage:           jetstream.FileStorage,
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardNew, // a full ledger forgets nothing before its time
		Replicas:          max(replicas, 1),
		MaxMsgs:           int64(r.DedupeKeys) + headroom(r.DedupeKeys),
		MaxMsgsPerSubject: 1,
		MaxBytes:          -1,
		MaxMsgSize:        -1,
		MaxConsumers:      -1,
		MaxAge:            r.Dedupe,
		Duplicates:        2 * time.Minute,
		AllowDirect:       true,
		AllowRollup:       true,
		DenyDelete:        true,
		Metadata:          map[string]string{metaRule: rule.Name},
	}
}

// Setup makes the bucket of a rule, or changes it to what the rule says, and
// returns when it was made. What an operator added to it stays.
func Setup(ctx context.Context, js jetstream.JetStream, ns wire.Namespace, rule *rules.Topic, replicas int) (time.Time, error) {
	want := Config(ns, rule, replicas)
	ctx, cancel := context.WithTimeout(ctx, setupWait)
	defer cancel()
	stream, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // made by another replica meanwhile
			stream, err = js.Stream(ctx, want.Name)
		}
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("make ledger %s: %w", want.Name, err)
	}
	created, have := stream.CachedInfo().Created, stream.CachedInfo().Config
	if next, same := merged(have, want); !same {
		if _, err := js.UpdateStream(ctx, next); err != nil {
			return time.Time{}, fmt.Errorf("change ledger %s: %w", want.Name, err)
		}
	}
	return created, nil
}

// merged is have with everything that a rule says taken from want; same where it
// says that already.
func merged(have, want jetstream.StreamConfig) (next jetstream.StreamConfig, same bool) {
	if have.Description == want.Description && slices.Equal(have.Subjects, want.Subjects) && have.Discard == want.Discard &&
		have.Replicas == want.Replicas && have.MaxMsgs == want.MaxMsgs && have.MaxMsgsPerSubject == want.MaxMsgsPerSubject &&
		have.MaxAge == want.MaxAge && have.AllowDirect && have.Metadata[metaRule] == want.Metadata[metaRule] {
		return have, true
	}
	next = have
	next.Description, next.Subjects, next.Discard, next.Replicas = want.Description, want.Subjects, want.Discard, want.Replicas
	next.MaxMsgs, next.MaxMsgsPerSubject, next.MaxAge = want.MaxMsgs, want.MaxMsgsPerSubject, want.MaxAge
	next.AllowDirect = true
	next.Metadata = maps.Clone(have.Metadata)
	if next.Metadata == nil {
		next.Metadata = map[string]string{}
	}
	next.Metadata[metaRule] = want.Metadata[metaRule]
	return next, false
}
