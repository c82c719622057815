package tasks

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/metric"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/services/tasks/bridge"
	"github.com/fairlead-io/fairlead/services/tasks/cron"
	"github.com/fairlead-io/fairlead/services/tasks/idem"
	"github.com/fairlead-io/fairlead/services/tasks/jobs"
	"github.com/fairlead-io/fairlead/services/tasks/lock"
	"github.com/fairlead-io/fairlead/services/tasks/runner"
	"github.com/fairlead-io/fairlead/services/tasks/schema"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// parts are what a replica is made of, beside its own endpoints.
type parts struct {
	rows   *store.Postgres // the tasks, as they are without a guard
	cron   *cron.Service
	jobs   *jobs.Service
	idem   *idem.Service
	locks  *lock.Locks
	bridge *bridge.Bridge
}

// build makes the parts, on connections and a pool that are there.
func (s *Service) build() (err error) {
	p := &s.parts
	p.rows = store.NewPostgres(s.pool, s.cfg.Retention)
	s.store = guarded{of: p.rows, pg: s.postgres}
	s.runner = runner.New(runner.Config{
		Store: s.store, NATS: s.dispatch, Peers: s.peers, Namespace: s.cfg.Namespace, ID: s.id, Guard: &s.guard, Log: s.slog,
		Retention: s.cfg.Retention, OwnerLease: s.cfg.OwnerLease, CancelGrace: s.cfg.CancelGrace,
	})
	p.cron = cron.New(cron.Config{Store: cron.NewPostgres(s.pool), Ask: s.postgres.ask, Wake: s.runner.Wake, Log: s.slog})
	p.jobs = jobs.New(jobs.Config{
		Store: jobs.NewPostgres(s.pool), Ask: s.postgres.ask, Peers: s.peers, Namespace: s.cfg.Namespace, ID: s.id, Log: s.slog,
	})
	if p.idem, err = idem.New(s.cfg.Idem, idem.Deps{
		Pool: s.pool, Ask: s.postgres.ask, NATS: s.buckets, Namespace: s.cfg.Namespace, Replicas: s.cfg.Replicas, Log: s.slog,
	}); err != nil {
		return err
	}
	if p.locks, err = lock.New(lock.Config{NATS: s.buckets, Namespace: s.cfg.Namespace, Replicas: s.cfg.Replicas, ID: s.id, Log: s.slog}); err != nil {
		return err
	}
	p.bridge, err = bridge.New(bridge.Config{PostgresURL: s.cfg.PostgresURL, NATS: s.bridging, Namespace: s.cfg.Namespace, Rules: s.deps.Rules, Log: s.slog})
	return err
}

// prepare makes the tables, or looks whether somebody else has made them.
func (s *Service) prepare(ctx context.Context) error {
	if s.cfg.Migrate {
		return schema.Migrate(ctx, s.pool)
	}
	_, err := s.parts.rows.Policies(ctx)
	return err
}

// leaving are what ends as soon as the replica is to stop, while requests are still
// answered: others go on with it, and nobody waits for it here any more.
func (p *parts) leaving(r *runner.Runner) []func(context.Context) error {
	return []func(context.Context) error{
		p.cron.Run, p.locks.Run, p.bridge.Run,
		func(ctx context.Context) error { // its requests are written as long as any come
			<-ctx.Done()
			p.jobs.Halt()
			return nil
		},
		func(ctx context.Context) error {
			return p.rows.Wakes(ctx, func(name string) {
				if name != "" { // else it begins to listen: what came before is found within a second
					r.Wake(name)
				}
			})
		},
	}
}

// staying are what goes on until the last request is answered, and then writes what
// is left and hands over what runs.
func (p *parts) staying(r *runner.Runner) []func(context.Context) error {
	return []func(context.Context) error{r.Run, p.jobs.Run, p.idem.Run}
}

// endpoints are those of the parts; at gives the subject of a name.
func (p *parts) endpoints(at func(name string) string) (all []bus.Endpoint) {
	for _, of := range []func(func(string) string) []bus.Endpoint{p.cron.Endpoints, p.jobs.Endpoints, p.idem.Endpoints, p.locks.Endpoints} {
		all = append(all, of(at)...)
	}
	return all
}

// observe exports the figures of the parts.
func (p *parts) observe(meter metric.Meter) error {
	return errors.Join(p.cron.Observe(meter), p.jobs.Observe(meter), p.idem.Observe(meter), p.locks.Observe(meter), p.bridge.Observe(meter))
}
