package archive

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// Message is a message of a stream.
type Message struct {
	Seq     int64
	Time    time.Time // when JetStream stored it
	Topic   string    // "": none; it is kept, and never found
	Event   string
	Payload []byte
	User    string // who published it; "": not known
	Exclude string // the connection that is not to get it
	Marker  bool   // it says that its topic was cleared up to here
}

// Store stores messages of a stream, in any order, all or none. One that is
// there already, with the same sequence and time, is not stored again. A message
// whose sequence is there with another time shows that the stream began again:
// then what was archived of it before is no longer found.
func (a *Archive) Store(ctx context.Context, stream string, ms []Message) error {
	if len(ms) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	err := a.tx(ctx, func(tx pgx.Tx) error {
		l, err := lockLog(ctx, tx, stream)
		if err == nil && l.id == 0 {
			l, err = beginLog(ctx, tx, stream, 0)
		}
		if err != nil {
			return err
		}
		if err = l.store(ctx, tx, ms); errors.Is(err, errOther) {
			if l, err = beginLog(ctx, tx, stream, l.created); err == nil {
				err = l.store(ctx, tx, ms)
			}
		}
		return err
	})
	return away("store messages of "+stream, err)
}

// errOther says that messages are not of the log they were to be stored in.
var errOther = errors.New("the stream is another one than was archived")

// store stores messages and moves the log's position over what is complete.
func (l *log) store(ctx context.Context, tx pgx.Tx, ms []Message) error {
	r := rowsOf(ms)
	if r.seq[0] <= l.last {
		if other, err := l.contradicts(ctx, tx, r); err != nil || other {
			return cmp.Or(err, errOther)
		}
	}
	// What was cleaned away stays away, though it is delivered again.
	tag, err := tx.Exec(ctx, `
		insert into fairlead.archive_message (log, seq, ts, topic, event, payload, sender, exclude, marker)
		select $1, u.* from unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::bytea[], $7::text[], $8::text[], $9::boolean[])
			as u (seq, ts, topic, event, payload, sender, exclude, marker)
		where u.seq >= $10
		on conflict do nothing`,
		l.id, r.seq, r.ts, r.topic, r.event, r.payload, r.user, r.exclude, r.marker, l.first)
	if err != nil {
		return err
	}
	l.stored += tag.RowsAffected()
	return l.advance(ctx, tx, r.seq)
}

// contradicts reports whether a message is there under another time.
func (l *log) contradicts(ctx context.Context, tx pgx.Tx, r *rows) (other bool, err error) {
	err = tx.QueryRow(ctx, `
		select exists (
			select from unnest($2::bigint[], $3::bigint[]) as u (seq, ts)
			join fairlead.archive_message m on m.log = $1 and m.seq = u.seq
			where m.ts <> u.ts)`, l.id, r.seq, r.ts).Scan(&other)
	return other, err
}

// rows are messages by column, in order of their sequences.
type rows struct {
	seq, ts       []int64
	topic, event  []string
	payload       [][]byte
	user, exclude []string
	marker        []bool
}

func rowsOf(ms []Message) *rows {
	ms = slices.Clone(ms)
	slices.SortStableFunc(ms, func(a, b Message) int { return cmp.Compare(a.Seq, b.Seq) })
	var r rows
	for _, m := range ms {
		r.seq = append(r.seq, m.Seq)
		r.ts = append(r.ts, m.Time.UnixNano())
		r.topic = append(r.topic, topicColumn(m.Topic))
		r.event = append(r.event, column(m.Event))
		r.payload = append(r.payload, append([]byte{}, m.Payload...)) // nil would be NULL
		r.user = append(r.user, column(m.User))
		r.exclude = append(r.exclude, column(m.Exclude))
		r.marker = append(r.marker, m.Marker)
	}
	return &r
}

// topicMax is the longest topic that an index can hold; none that a client can
// name is as long.
const topicMax = 1024

// topicColumn returns a topic as it is stored: a subject that some worker made
// up and no client can name must not stop the copy.
func topicColumn(s string) string {
	if len(s) > topicMax {
		return ""
	}
	return column(s)
}

// column returns a text as Postgres takes it. What is no UTF-8 or has a zero
// byte can't be said on the wire either.
func column(s string) string {
	if !utf8.ValidString(s) {
		return ""
	}
	for i := range len(s) {
		if s[i] == 0 {
			return ""
		}
	}
	return s
}
