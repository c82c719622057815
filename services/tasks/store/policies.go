package store

import (
	"context"
	"crypto/rand"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Register implements [Store].
func (p *Postgres) Register(ctx context.Context, policy Policy) error {
	final := make([]string, len(policy.Final))
	for i, code := range policy.Final {
		final[i] = text(string(code))
	}
	return p.do(ctx, "register a name", nil, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `
			insert into fairlead.task_name (name, timeout, max_attempts, backoff, factor, max_backoff, jitter, final, max_crashes, concurrency, retention)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
			on conflict (name) do update set timeout = excluded.timeout, max_attempts = excluded.max_attempts, backoff = excluded.backoff,
				factor = excluded.factor, max_backoff = excluded.max_backoff, jitter = excluded.jitter, final = excluded.final,
				max_crashes = excluded.max_crashes, concurrency = excluded.concurrency, retention = excluded.retention`,
			text(policy.Name), micros(policy.Timeout), policy.MaxAttempts, micros(policy.Backoff), policy.Factor, micros(policy.MaxBackoff),
			policy.Jitter, final, policy.MaxCrashes, policy.Concurrency, micros(policy.Retention))
		return err
	})
}

// Policies implements [Store].
func (p *Postgres) Policies(ctx context.Context) (all []Policy, err error) {
	err = p.do(ctx, "read policies", nil, func(ctx context.Context, conn *pgx.Conn) error {
		all = nil
		return rows(ctx, conn, func(r pgx.Rows) error {
			var of Policy
			var timeout, backoff, most, retention int64
			var final []string
			err := r.Scan(&of.Name, &timeout, &of.MaxAttempts, &backoff, &of.Factor, &most, &of.Jitter, &final, &of.MaxCrashes,
				&of.Concurrency, &retention)
			of.Timeout, of.Backoff, of.MaxBackoff, of.Retention = duration(timeout), duration(backoff), duration(most), duration(retention)
			for _, code := range final {
				of.Final = append(of.Final, wire.Code(code))
			}
			all = append(all, of)
			return err
		}, `
			select name, timeout, max_attempts, backoff, factor, max_backoff, jitter, final, max_crashes, concurrency, retention
			from fairlead.task_name order by name`)
	})
	return all, err
}

// Secret implements [Store].
func (p *Postgres) Secret(ctx context.Context) (secret []byte, err error) {
	made := make([]byte, secretSize)
	rand.Read(made) // never fails: it ends the process
	err = p.do(ctx, "read the secret", nil, func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, `insert into fairlead.task_secret (secret) values ($1) on conflict do nothing`, made); err != nil {
			return err
		}
		return conn.QueryRow(ctx, `select secret from fairlead.task_secret`).Scan(&secret)
	})
	return secret, err
}
