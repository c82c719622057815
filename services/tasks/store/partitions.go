package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// maxKept bounds the retentions that are remembered, and those of one statement.
	maxKept = 64
	// daysAhead is for how many days partitions are made before they are needed.
	daysAhead = 7
	// dropTimeout bounds the wait for those who still look at a day that is dropped;
	// the next time goes on where this one ended.
	dropTimeout = 2 * time.Second
	// dropLock lets one process at a time drop days.
	dropLock int64 = 0x666c_6472_6f70 // "fldrop"
)

// keeps remembers retentions, for the days ahead.
func (p *Postgres) keeps(retentions []time.Duration) {
	if len(retentions) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range retentions {
		if _, ok := p.kept[r]; !ok && len(p.kept) < maxKept {
			p.kept[r] = struct{}{}
		}
	}
}

// makeDays makes the partitions for what is kept so long from now, and for what is
// kept as the names say: also for a midnight that passes meanwhile.
func (p *Postgres) makeDays(ctx context.Context, retentions []time.Duration) error {
	return p.makeUntil(ctx, retentions, 1)
}

func (p *Postgres) makeUntil(ctx context.Context, retentions []time.Duration, days int) error {
	us := make([]int64, len(retentions))
	for i, r := range retentions {
		us[i] = micros(r)
	}
	return p.once(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		// A day is made in a transaction of its own: it keeps others from making
		// theirs only while it is made.
		var missing []time.Time
		if err := rows(ctx, conn, func(r pgx.Rows) error {
			var day time.Time
			err := r.Scan(&day)
			missing = append(missing, day)
			return err
		}, `
			select distinct d.day at time zone 'UTC' from (
				select unnest($1::bigint[]) union select n.retention from fairlead.task_name n where n.retention > 0
			) as u (kept) cross join generate_series(0, $2::integer) as n
			cross join lateral (
				select date_trunc('day', (now() + u.kept * interval '1 microsecond') at time zone 'UTC') + n * interval '1 day'
			) as d (day)
			where to_regclass('fairlead.task_done_' || to_char(d.day, 'YYYYMMDD')) is null order by 1`, us, days); err != nil {
			return err
		}
		for _, day := range missing {
			if _, err := conn.Exec(ctx, `select fairlead.task_done_make($1)`, day); err != nil {
				return fmt.Errorf("make the partition of %s: %w", day.UTC().Format(time.DateOnly), err)
			}
		}
		return nil
	})
}

// makeAhead makes the days that what ends in the next days will need.
func (p *Postgres) makeAhead(ctx context.Context) error {
	const operation = "make the days ahead"
	policies, err := p.Policies(ctx)
	if err != nil {
		return err
	}
	all := []time.Duration{p.retention}
	for _, policy := range policies {
		if policy.Retention > 0 {
			all = append(all, policy.Retention)
		}
	}
	p.mu.Lock()
	for r := range p.kept {
		all = append(all, r)
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	return away(operation, p.makeUntil(ctx, all, daysAhead))
}

// dropDays drops the days of which nothing is kept any more. Each is detached
// while others write, which no transaction may do: it has a connection of its
// own. Who comes second leaves it to the first.
func (p *Postgres) dropDays(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, p.pool.Config().ConnConfig)
	if err == nil {
		err = errors.Join(dropDays(ctx, conn), conn.Close(context.WithoutCancel(ctx)))
	}
	var state *pgconn.PgError
	if errors.As(err, &state) && state.Code == "55P03" {
		return nil // somebody still looks at that day
	}
	return away("drop days", err)
}

func dropDays(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, fmt.Sprintf("set lock_timeout = %d", dropTimeout.Milliseconds())); err != nil {
		return err
	}
	var mine bool
	if err := conn.QueryRow(ctx, `select pg_try_advisory_lock($1)`, dropLock).Scan(&mine); err != nil || !mine {
		return err
	}
	concurrently := major(conn) >= 14
	pending := "false"
	if concurrently {
		pending = "coalesce(i.inhdetachpending, false)"
	}
	type past struct {
		name              string
		attached, pending bool
	}
	var days []past
	if err := rows(ctx, conn, func(r pgx.Rows) error {
		var d past
		err := r.Scan(&d.name, &d.attached, &d.pending)
		days = append(days, d)
		return err
	}, `
		select c.relname::text, i.inhrelid is not null, `+pending+`
		from pg_class c left join pg_inherits i on i.inhrelid = c.oid
		where c.relnamespace = 'fairlead'::regnamespace and c.relkind = 'r' and c.relname ~ '^task_done_[0-9]{8}$'
			and to_date(right(c.relname, 8), 'YYYYMMDD') + 1 <= (now() at time zone 'UTC')::date
		order by 3 desc, 1`); err != nil {
		return err
	}
	for _, d := range days {
		name := pgx.Identifier{"fairlead", d.name}.Sanitize()
		how := ""
		switch {
		case d.pending: // it was cut short
			how = " finalize"
		case concurrently:
			how = " concurrently"
		}
		if d.attached {
			if _, err := conn.Exec(ctx, `alter table fairlead.task_done detach partition `+name+how); err != nil {
				return fmt.Errorf("detach %s: %w", d.name, err)
			}
		}
		if _, err := conn.Exec(ctx, `drop table `+name); err != nil {
			return fmt.Errorf("drop %s: %w", d.name, err)
		}
	}
	return nil
}

// major is the major version of the server, whatever follows it.
func major(conn *pgx.Conn) int {
	version := conn.PgConn().ParameterStatus("server_version")
	end := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(version)
	}
	n, _ := strconv.Atoi(version[:end]) // 0: an old one
	return n
}
