package archive

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// With Last the range begins so many messages before its end, and never before
// what breaks it.
func TestLast(t *testing.T) {
	a := migrated(t)
	store(t, a, plain("chat.a", 1, 2, 4, 5, 7)...)
	store(t, a, plain("chat.b", 3, 6)...)
	ask := func(q Query) (seqs []int64, more bool) {
		t.Helper()
		q.Stream, q.Topic, q.Bytes = stream, "chat.a", 1000
		page, err := a.Since(t.Context(), q)
		if err != nil || !page.Whole {
			t.Fatalf("Since(%+v): %v, whole %v", q, err, page.Whole)
		}
		for _, m := range page.Messages {
			seqs = append(seqs, m.Seq)
		}
		return seqs, page.More
	}
	for _, test := range []struct {
		q    Query
		want []int64
		more bool
	}{
		{Query{Last: 2, Limit: 10}, []int64{5, 7}, false},
		{Query{Last: 2, Limit: 10, Before: 7}, []int64{4, 5}, false},
		{Query{Last: 3, Limit: 2}, []int64{4, 5}, true},
		{Query{Last: 100, Limit: 10}, []int64{1, 2, 4, 5, 7}, false},
		{Query{Last: 100, Limit: 10, Cleared: 2}, []int64{4, 5, 7}, false},
		{Query{Last: 2, Limit: 10, Before: 7, Alive: epoch.Add(5 * time.Second)}, []int64{5}, false},
		{Query{Last: 100, Limit: 10, Alive: epoch.Add(time.Hour)}, nil, false},
	} {
		if got, more := ask(test.q); !slices.Equal(got, test.want) || more != test.more {
			t.Errorf("Since(%+v) = %v, more %v, want %v, more %v", test.q, got, more, test.want, test.more)
		}
	}
}

// What has expired is not found, and a position that an expired message follows
// is not whole. The clock may have been set back in between.
func TestExpired(t *testing.T) {
	a := migrated(t)
	var seqs []int64
	for seq := range int64(300) {
		seqs = append(seqs, seq+1)
	}
	ms := plain("chat.a", seqs...)
	ms[220].Time = ms[190].Time // message 221
	store(t, a, ms...)
	for _, alive := range []int64{1, 2, 100, 200, 250, 300, 301} {
		for _, after := range []int64{0, 1, 99, 198, 199, 220, 249, 300} {
			q := Query{Stream: stream, Topic: "chat.a", Alive: epoch.Add(time.Duration(alive) * time.Second), Limit: 1000, Bytes: 1 << 20}
			if after > 0 {
				q.After = at(after)
			}
			page, err := a.Since(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			var got, want []int64
			for _, m := range page.Messages {
				got = append(got, m.Seq)
			}
			for _, seq := range seqs {
				if seq > after && !ms[seq-1].Time.Before(q.Alive) {
					want = append(want, seq)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("behind %d, alive from %d: got %d messages, want %d", after, alive, len(got), len(want))
			}
			wantWhole := after == 0 || after == 300 || !ms[after].Time.Before(q.Alive)
			if page.Whole != wantWhole {
				t.Errorf("behind %d, alive from %d: whole %v, want %v", after, alive, page.Whole, wantWhole)
			}
		}
	}
}

// An archive of another life of the stream has nothing to say.
func TestOnlyTheLifeThatIsAskedFor(t *testing.T) {
	a := migrated(t)
	created := epoch.Add(-time.Hour)
	l, err := a.enter(t.Context(), stream, created.UnixNano(), 0, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.storeIn(t.Context(), stream, l.id, plain("chat.a", 1, 2)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		created time.Time
		n       int
		copied  int64
	}{{created, 2, 2}, {time.Time{}, 2, 2}, {epoch, 0, -1}} {
		page, err := a.Since(t.Context(), Query{Stream: stream, Topic: "chat.a", Created: test.created, Limit: 10, Bytes: 1000})
		if err != nil || len(page.Messages) != test.n || page.Copied != test.copied {
			t.Errorf("of the stream made at %s: %+v, %v, want %d messages, copied up to %d", test.created, page, err, test.n, test.copied)
		}
	}
}

func TestURLs(t *testing.T) {
	for _, good := range []string{"postgres://u:p@h/d", "postgresql://h/d?sslmode=disable&pool_max_conns=3", "host=h user=u"} {
		if err := CheckURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"postgres://u:hidden@h:port/d", "http://u:hidden@h/", "postgres://u:hidden@h/d?pool_max_conns=many"} {
		if err := CheckURL(bad); err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: got %v, want an error without the password", bad, err)
		}
	}
}
