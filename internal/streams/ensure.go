package streams

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const requestTimeout = 5 * time.Second

// Store is where the streams of a namespace are.
type Store struct {
	JetStream jetstream.JetStream
	Namespace wire.Namespace
	Replicas  int // of a stream whose rule names none; 0 is 1
}

// Ensure makes the stream of a rule where it is missing. One that is there is
// left as it is, whatever its configuration.
func (s Store) Ensure(ctx context.Context, rule *rules.Topic) error {
	cfg, err := Config(rule, s.Namespace, s.Replicas)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err = s.JetStream.Stream(ctx, cfg.Name)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return s.wrap("look for", cfg.Name, err)
	}
	_, err = s.create(ctx, cfg)
	return s.wrap("make", cfg.Name, err)
}

// How often, and how long apart, a stream that could not be made is looked for.
const (
	createTries = 10
	createPause = 50 * time.Millisecond
)

// create makes a stream, and reports whether it did: no error where another
// process has made it meanwhile. Servers say that in more ways than one: the
// loser of a race may hear that the store can't be made, before the winner's
// stream can be found.
func (s Store) create(ctx context.Context, cfg jetstream.StreamConfig) (made bool, err error) {
	for tries := 0; ; tries++ {
		if _, err = s.JetStream.CreateStream(ctx, cfg); err == nil {
			return true, nil
		}
		var refused *jetstream.APIError
		if !errors.As(err, &refused) || overlaps(err) {
			return false, err
		}
		if _, missing := s.JetStream.Stream(ctx, cfg.Name); missing == nil {
			return false, nil
		}
		if refused.ErrorCode != codeNoStore || tries == createTries || clock.Sleep(ctx, createPause) != nil {
			return false, err
		}
	}
}

// Drift is a stream that cannot be changed to what its rule says.
type Drift struct {
	Stream string
	Rule   string
	Err    error // the server's word
	// Missing says that there is no such stream: another has its subjects.
	Missing bool
}

func (e *Drift) Error() string {
	if overlaps(e.Err) {
		return fmt.Sprintf("stream %s can't become what rule %s says: another stream takes its subjects: %v; change that stream's subjects, or the rule's `match`", e.Stream, e.Rule, e.Err)
	}
	return fmt.Sprintf("stream %s can't become what rule %s says: %v; give the rule another `name` (a new stream, the old one stays), or delete the stream (its history is lost)", e.Stream, e.Rule, e.Err)
}

func (e *Drift) Unwrap() error { return e.Err }

const (
	codeOverlap = 10065 // JetStream's word for subjects that another stream has
	codeNoStore = 10049 // and for a store that can't be made, as of a stream that is being made
)

func overlaps(err error) bool {
	var api jetstream.JetStreamError
	return errors.As(err, &api) && api.APIError() != nil && api.APIError().ErrorCode == codeOverlap
}

// Update makes the stream of a rule, or changes it to what the rule says, and
// reports whether anything had to be done. A stream that can't be changed in
// place, or whose subjects are another's, is a *[Drift].
func (s Store) Update(ctx context.Context, rule *rules.Topic) (changed bool, err error) {
	want, err := Config(rule, s.Namespace, s.Replicas)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := s.JetStream.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		made, err := s.create(ctx, want)
		if overlaps(err) {
			return false, &Drift{Stream: want.Name, Rule: rule.Name, Err: err, Missing: true}
		}
		return made, s.wrap("make", want.Name, err) // another's is compared at the next look
	}
	if err != nil {
		return false, s.wrap("look for", want.Name, err)
	}
	have := stream.CachedInfo().Config
	if same(have, want) {
		return false, nil
	}
	if have.Storage != want.Storage {
		return false, &Drift{Stream: want.Name, Rule: rule.Name, Err: fmt.Errorf("its storage is %s, not %s", have.Storage, want.Storage)}
	}
	next := merged(have, want)
	grows, noted := want.MaxMsgsPerSubject > have.MaxMsgsPerSubject, stream.CachedInfo().State.LastSeq
	if grows {
		next.Metadata[metaGrown] = grown(have, noted)
	}
	updated, err := s.JetStream.UpdateStream(ctx, next)
	if err == nil && grows && updated.CachedInfo().State.LastSeq > noted {
		// Until it was done the old bound counted.
		next.Metadata[metaGrown] = grown(have, updated.CachedInfo().State.LastSeq)
		_, err = s.JetStream.UpdateStream(ctx, next)
	}
	if err != nil {
		var api jetstream.JetStreamError
		if errors.As(err, &api) && api.APIError() != nil {
			return false, &Drift{Stream: want.Name, Rule: rule.Name, Err: err}
		}
		return false, s.wrap("change", want.Name, err)
	}
	return true, nil
}

// grown is what a stream that begins to keep more of each topic notes of before.
func grown(have jetstream.StreamConfig, last uint64) string {
	kept := int(have.MaxMsgsPerSubject)
	if _, before := Grown(have.Metadata); before > 0 {
		kept = min(kept, before)
	}
	return strconv.FormatUint(last, 10) + " " + strconv.Itoa(kept)
}

// Grown returns, from a stream's metadata, how far it was when it last began to
// keep more messages of each topic, and how many it kept at the least before
// that; 0, 0 where it never did. A topic with fewer has lost none to that bound.
func Grown(metadata map[string]string) (at int64, kept int) {
	if _, err := fmt.Sscanf(metadata[metaGrown], "%d %d", &at, &kept); err != nil || at < 0 || kept < 1 {
		return 0, 0
	}
	return at, kept
}

// Retire frees the subjects of streams whose rule is gone, so that other rules
// may use them. What such a stream holds stays. It returns their names.
func (s Store) Retire(ctx context.Context, set *rules.Set) (names []string, err error) {
	used := map[string]bool{}
	for _, t := range set.Topics {
		if t.Replay != nil {
			used[t.Stream(s.Namespace)] = true
		}
	}
	lister := s.JetStream.ListStreams(ctx, jetstream.WithStreamListSubject(string(s.Namespace)+".topic.>"))
	var gone []jetstream.StreamConfig
	for info := range lister.Info() {
		if info.Config.Metadata[metaRule] != "" && !used[info.Config.Name] {
			gone = append(gone, info.Config)
		}
	}
	if err := lister.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	for _, cfg := range gone {
		if _, err := s.JetStream.UpdateStream(ctx, retired(cfg, s.Namespace)); err != nil {
			return names, s.wrap("retire", cfg.Name, err)
		}
		names = append(names, cfg.Name)
	}
	return names, nil
}

func (s Store) wrap(what, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s stream %s: %w", what, name, err)
}

// same reports whether a stream is what a rule wants, in all that a rule says.
func same(have, want jetstream.StreamConfig) bool {
	return have.Description == want.Description &&
		slices.Equal(have.Subjects, want.Subjects) &&
		have.Storage == want.Storage && have.Retention == want.Retention && have.Discard == want.Discard &&
		have.Replicas == want.Replicas && have.MaxMsgsPerSubject == want.MaxMsgsPerSubject &&
		have.MaxAge == want.MaxAge && have.MaxBytes == want.MaxBytes && have.MaxMsgSize == want.MaxMsgSize &&
		have.Duplicates == want.Duplicates && have.AllowDirect == want.AllowDirect && have.DenyDelete == want.DenyDelete &&
		have.AllowAtomicPublish == want.AllowAtomicPublish && !have.AllowRollup && !have.AllowMsgTTL &&
		have.RePublish != nil && *have.RePublish == *want.RePublish && have.Metadata[metaRule] == want.Metadata[metaRule]
}

// merged is have with everything that a rule says taken from want; what an
// operator added (placement, compression, mirrors of it) stays.
func merged(have, want jetstream.StreamConfig) jetstream.StreamConfig {
	out := have
	out.Description, out.Subjects = want.Description, want.Subjects
	out.Retention, out.Discard, out.Replicas = want.Retention, want.Discard, want.Replicas
	out.MaxMsgsPerSubject, out.MaxAge, out.MaxBytes, out.MaxMsgSize = want.MaxMsgsPerSubject, want.MaxAge, want.MaxBytes, want.MaxMsgSize
	out.Duplicates, out.AllowDirect, out.DenyDelete = want.Duplicates, want.AllowDirect, want.DenyDelete
	out.AllowAtomicPublish, out.AllowRollup, out.AllowMsgTTL = want.AllowAtomicPublish, false, false
	out.RePublish = want.RePublish
	out.Metadata = maps.Clone(have.Metadata)
	if out.Metadata == nil {
		out.Metadata = map[string]string{}
	}
	out.Metadata[metaRule] = want.Metadata[metaRule]
	return out
}
