package replay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/internal/clock"
	"github.com/fairlead-io/fairlead/internal/rules"
	"github.com/fairlead-io/fairlead/internal/telemetry"
	"github.com/fairlead-io/fairlead/services/replay/archive"
)

// archiving is what a replica needs to keep the archives of its streams. The
// zero value keeps none.
type archiving struct {
	archive *postgres           // nil: no database is configured
	js      jetstream.JetStream // of a connection of its own: copiers carry whole streams
	counts  archiveCounts
	missing atomic.Int64 // rules that ask for an archive where there is no database
	said    string       // the names of those rules; used by the goroutine of keep only
}

type archiveCounts struct {
	copiers              archive.Counts
	reads, readErrors    atomic.Int64
	cleaned, cleanErrors atomic.Int64
}

const (
	// cleanBatch is how many messages one statement deletes.
	cleanBatch = 1000

	// worryShare is how much of what a stream keeps may not be copied, and
	// worryAfter for how long, before that is worth a word: a burst is copied in
	// a moment.
	worryShare = 0.5
	worryAfter = 5 * time.Second
	worryEvery = 2 * time.Second
)

// archived returns how long messages stay in the archive. Like a stream's they
// outlive the TTL as evidence: who has seen an expired message can still prove
// that nothing after it is gone.
func (r Retention) archived() time.Duration { return r.TTL + min(r.TTL, memory) }

// unarchived notes the rules whose archive nobody keeps for want of a database.
func (s *Service) unarchived(set *rules.Set) {
	var names []string
	for _, rule := range set.Topics {
		if rule.Replay != nil && rule.Replay.Archive && s.archiving.archive == nil {
			names = append(names, rule.Name)
		}
	}
	s.archiving.missing.Store(int64(len(names)))
	said := strings.Join(names, " ")
	if said != "" && said != s.archiving.said {
		s.slog.Warn("no archive is kept: FAIRLEAD_POSTGRES_URL is not set", "rules", said)
	}
	s.archiving.said = said
}

// copier returns the copier of a stream, and the log that reads what it copied.
func (s *Service) copier(log *stream) (*archive.Copier, Log) {
	c := archive.NewCopier(archive.CopierConfig{
		Archive: s.archiving.archive.archive, JetStream: s.archiving.js, Stream: log.name, Namespace: s.cfg.Namespace,
		Log: s.slog, Counts: &s.archiving.counts.copiers,
	})
	return c, &archived{stream: log, archive: s.archiving.archive, counts: &s.archiving.counts}
}

// archives returns the open logs that are copied, and their copiers.
func (s *Service) archives() (logs []*archived, copiers []*archive.Copier) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.logs {
		if log, ok := o.answers.(*archived); ok {
			logs, copiers = append(logs, log), append(copiers, o.copier)
		}
	}
	return logs, copiers
}

// cleanArchives deletes what expired until ctx is done. Replicas may do it at
// once: each takes what nobody else has taken.
func (s *Service) cleanArchives(ctx context.Context) {
	for wait := rand.N(worryEvery); clock.Sleep(ctx, wait) == nil; wait = janitorEvery/2 + rand.N(janitorEvery) {
		logs, _ := s.archives()
		for _, log := range logs {
			if !log.archive.healthy() {
				break // nobody waits for it
			}
			n, err := log.clean(ctx)
			s.archiving.counts.cleaned.Add(n)
			if err != nil && ctx.Err() == nil {
				s.archiving.counts.cleanErrors.Add(1)
				s.slog.Debug("archive not cleaned", "stream", log.name, "err", err) // the copier says that the archive is away
			}
		}
	}
}

// clean deletes what was cleared, and what expired long enough ago, and returns
// how many messages that were.
func (l *archived) clean(ctx context.Context) (int64, error) {
	swept, err := l.archive.archive.Sweep(ctx, l.name)
	if err != nil || l.retention.TTL <= 0 {
		return swept, err
	}
	cleaned, err := l.archive.archive.Clean(ctx, l.name, l.now().Add(-l.retention.archived()), cleanBatch)
	return swept + cleaned, err
}

// watchArchives says when the copy of a stream falls behind, and when it has
// caught up, until ctx is done.
func (s *Service) watchArchives(ctx context.Context) {
	worried := map[string]bool{}
	for clock.Sleep(ctx, worryEvery) == nil {
		logs, copiers := s.archives()
		for i, log := range logs {
			lag := copiers[i].Lag()
			switch behind := worrying(lag); {
			case behind && !worried[log.name]:
				s.slog.Warn("archive is far behind: messages will be gone before they are archived",
					"stream", log.name, "messages", lag.Messages, "share", lag.Share, "age", lag.Age)
				worried[log.name] = true
			case !behind && worried[log.name]:
				s.slog.Info("archive is no longer far behind", "stream", log.name)
				delete(worried, log.name)
			}
		}
	}
}

// worrying reports whether a stream may soon give up what is not copied.
func worrying(lag archive.Lag) bool { return lag.Share > worryShare && lag.Age > worryAfter }

// degraded returns what is wrong with the archives though the replica can serve;
// nil where nothing is.
func (s *Service) degraded() error {
	if n := s.archiving.missing.Load(); n > 0 {
		return telemetry.Degraded(fmt.Sprintf("archive: %d rules ask for one, and FAIRLEAD_POSTGRES_URL is not set", n))
	}
	_, copiers := s.archives()
	behind, stopped := 0, 0
	for _, c := range copiers {
		lag := c.Lag()
		if worrying(lag) {
			behind++
		}
		if lag.Stopped > worryAfter {
			stopped++
		}
	}
	switch {
	case behind > 0:
		return telemetry.Degraded(fmt.Sprintf("archive: %d of %d streams have more than half of what they keep not archived", behind, len(copiers)))
	case stopped > 0:
		return telemetry.Degraded(fmt.Sprintf("archive: %d of %d streams can't be copied", stopped, len(copiers)))
	}
	return nil
}

// lag sums up how far the copies are behind; Age is the greatest.
func (s *Service) lag() (sum archive.Lag) {
	_, copiers := s.archives()
	for _, c := range copiers {
		lag := c.Lag()
		sum.Messages += lag.Messages
		sum.Bytes += lag.Bytes
		sum.Age = max(sum.Age, lag.Age)
	}
	return sum
}
