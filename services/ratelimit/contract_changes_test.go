package ratelimit

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/internal/kv"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// changeRules are of what changes a bucket otherwise, of several takes at once, and
// of what is stored.
var changeRules = []rule{
	{"a ban counts in every replica, and so does its end", func(t *testing.T, r *keeping) {
		l, other := slow("p", 5), r.start(t, nil)
		take1(t, other, "ban", l, 1)
		revision, until, err := r.ban(soon(t), "ban", l, time.Minute)
		if err != nil || !until.Equal(r.now().Add(time.Minute)) {
			t.Fatalf("got %s (%v), want a minute from now", until, err)
		}
		if v := take1(t, other, "ban", l, 1); v.Allowed || !v.Banned || v.RetryAfterMs != 60_000 {
			t.Errorf("after the ban: got %+v", v)
		}
		again, err := r.unban(soon(t), "ban", l)
		if err != nil || again <= revision {
			t.Fatalf("got revision %d (%v), want one above %d", again, err, revision)
		}
		other.forget("ban", again)
		expectGiven(t, "after the ban", take1(t, other, "ban", l, 1), 3)
	}},
	{"a reset fills the bucket and ends the ban, of this policy", func(t *testing.T, r *keeping) {
		l, beside := slow("p", 5), slow("beside", 5)
		take1(t, r.keeper, "reset", l, 5)
		take1(t, r.keeper, "reset", beside, 5)
		banned, _, err := r.ban(soon(t), "reset", l, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		revision, err := r.reset(soon(t), "reset", l)
		if err != nil || revision <= banned {
			t.Fatalf("got revision %d (%v), want one above %d", revision, err, banned)
		}
		expectGiven(t, "after the reset", take1(t, r.keeper, "reset", l, 1), 4)
		if v := take1(t, r.keeper, "reset", beside, 1); v.Allowed {
			t.Errorf("another policy: got %+v, want denied", v)
		}
	}},
	{"a key that nobody took from can be reset, unbanned and dropped", func(t *testing.T, r *keeping) {
		l := slow("p", 5)
		if revision, err := r.reset(soon(t), "unknown1", l); err != nil || revision == 0 {
			t.Errorf("reset: got %d, %v", revision, err)
		}
		if revision, err := r.unban(soon(t), "unknown2", l); err != nil || revision == 0 {
			t.Errorf("unban: got %d, %v", revision, err)
		}
		if dropped, err := r.drop(soon(t), "unknown3", "p"); err != nil || dropped {
			t.Errorf("drop: got %t, %v", dropped, err)
		}
		expectGiven(t, "after all", take1(t, r.keeper, "unknown1", l, 1), 4)
	}},
	{"a dropped policy is full, the others stay", func(t *testing.T, r *keeping) {
		l, beside := slow("p", 5), slow("beside", 5)
		take1(t, r.keeper, "drop", l, 5)
		take1(t, r.keeper, "drop", beside, 5)
		if dropped, err := r.start(t, nil).drop(soon(t), "drop", "p"); err != nil || !dropped {
			t.Fatalf("got %t, %v", dropped, err)
		}
		r.tell(t)
		expectGiven(t, "what was dropped", take1(t, r.keeper, "drop", l, 1), 4)
		if v := take1(t, r.keeper, "drop", beside, 1); v.Allowed {
			t.Errorf("what was not: got %+v", v)
		}
	}},
	{"a refund gives back once for each id within a minute", func(t *testing.T, r *keeping) {
		l := slow("p", 10)
		take1(t, r.keeper, "refund", l, 8)
		remaining, revision, first, err := r.refund(soon(t), "refund", l, 3, "a")
		if err != nil || remaining != 5 || revision == 0 || !first {
			t.Fatalf("got %d at %d (%v), want 5", remaining, revision, err)
		}
		if remaining, _, first, err = r.start(t, nil).refund(soon(t), "refund", l, 3, "a"); err != nil || remaining != 5 || first {
			t.Errorf("again, by another: got %d at %d (%v), want 5 and nothing written", remaining, revision, err)
		}
		if remaining, _, _, err = r.refund(soon(t), "refund", l, 100, "b"); err != nil || remaining != 10 {
			t.Errorf("too much: got %d (%v), want no more than the capacity", remaining, err)
		}
		take1(t, r.keeper, "refund", l, 9)
		if remaining, _, _, err = r.refund(soon(t), "refund", l, 3, "b"); err != nil || remaining != 1 {
			t.Errorf("the id of one that filled it: got %d (%v), want 1", remaining, err)
		}
	}},
	{"takes of one key are all given or none", func(t *testing.T, r *keeping) {
		few, many := slow("few", 3), slow("many", 100)
		few.Block = time.Minute
		both := []take{{many, 10}, {few, 2}}
		out, err := r.consume(soon(t), "all", both, 1, false)
		if err != nil || out.granted != 1 {
			t.Fatalf("got %+v (%v)", out, err)
		}
		expectGiven(t, "many", out.verdicts[0], 90)
		expectGiven(t, "few", out.verdicts[1], 1)
		out, err = r.consume(soon(t), "all", both, 1, false)
		if err != nil || out.granted != 0 || out.verdicts[1].Allowed || out.verdicts[1].Banned || out.verdicts[0].Remaining != 90 {
			t.Errorf("got %+v (%v), want nothing taken and nobody banned", out, err)
		}
		expectGiven(t, "few by itself", take1(t, r.keeper, "all", few, 1), 0)
		expectGiven(t, "many by itself", take1(t, r.keeper, "all", many, 1), 89)
	}},
	{"takes of the same policy and key count together", func(t *testing.T, r *keeping) {
		l := slow("p", 5)
		out, err := r.consume(soon(t), "together", []take{{l, 3}, {l, 3}}, 1, false)
		if err != nil || out.granted != 0 || out.verdicts[0].RetryAfterMs != -1 {
			t.Errorf("3 and 3 of 5: got %+v (%v), want none, ever", out, err)
		}
		out, err = r.consume(soon(t), "together", []take{{l, 2}, {l, 3}}, 1, false)
		if err != nil || out.granted != 1 || out.verdicts[0].Remaining != 0 {
			t.Errorf("2 and 3 of 5: got %+v (%v)", out, err)
		}
	}},
	{"takes of several keys are all given or none", func(t *testing.T, r *keeping) {
		l, tight := slow("p", 100), slow("tight", 1)
		tight.Block = time.Minute
		items := []keyed{{"s2", take{tight, 1}}, {"s1", take{l, 10}}, {"s2", take{l, 1}}}
		verdicts, granted, err := r.consumeAll(soon(t), items)
		if err != nil || !granted {
			t.Fatalf("got %+v (%v)", verdicts, err)
		}
		for i, remaining := range []int64{0, 90, 99} {
			expectGiven(t, fmt.Sprint("take ", i), verdicts[i], remaining)
		}
		other := r.start(t, nil)
		verdicts, granted, err = other.consumeAll(soon(t), items)
		if err != nil || granted || verdicts[0].Allowed || verdicts[0].Banned || !verdicts[1].Allowed || verdicts[1].Remaining != 90 {
			t.Errorf("got %+v (%v), want nothing taken and nobody banned", verdicts, err)
		}
		expectGiven(t, "s1 by itself", take1(t, other, "s1", l, 1), 89)
		expectGiven(t, "s2 by itself", take1(t, r.keeper, "s2", l, 1), 98)
		if _, _, err := r.ban(soon(t), "s3", l, time.Minute); err != nil {
			t.Fatal(err)
		}
		verdicts, granted, err = other.consumeAll(soon(t), []keyed{{"s4", take{l, 1}}, {"s3", take{l, 0}}})
		if err != nil || granted || !verdicts[0].Allowed || !verdicts[1].Banned {
			t.Errorf("beside nothing of a banned key: got %+v (%v), want the ban", verdicts, err)
		}
	}},
	{"a shadow takes where it can, and denies nobody", func(t *testing.T, r *keeping) {
		l, real := slow("p", 2), slow("real", 10)
		l.Shadow, l.Block = true, time.Minute
		expectGiven(t, "2 of 2", take1(t, r.keeper, "shadow", l, 2), 0)
		if v := take1(t, r.keeper, "shadow", l, 1); !v.Allowed || !v.Shadowed || v.RetryAfterMs != 0 || v.Banned {
			t.Errorf("1 of none: got %+v, want allowed as a shadow", v)
		}
		out, err := r.consume(soon(t), "shadow", []take{{l, 1}, {real, 4}}, 3, false)
		if err != nil || out.granted != 2 || !out.verdicts[0].Allowed || !out.verdicts[0].Shadowed || out.verdicts[1].Allowed {
			t.Errorf("beside a real one: got %+v (%v), want 2 of 3", out, err)
		}
	}},
	{"a state of another version has no influence", func(t *testing.T, r *keeping) {
		l := slow("p", 5)
		spent := []byte(`{"buckets":{"p":{"f":9000000000000000,"m":432000000000,"s":86400000000,"a":1800000000000000}}}`)
		for _, name := range []string{"v0.versions", "v2.versions", "versions"} {
			if _, err := r.store.Put(soon(t), kv.Write{Key: name, Value: spent, TTL: time.Minute}); err != nil {
				t.Fatal(err)
			}
		}
		expectGiven(t, "1 of 5", take1(t, r.keeper, "versions", l, 1), 4)
		// The same under this version is what the key has.
		if _, err := r.store.Put(soon(t), kv.Write{Key: "v1.versions", Value: spent, Expect: kv.AnyRevision, TTL: time.Minute}); err != nil {
			t.Fatal(err)
		}
		if v := take1(t, r.keeper, "versions", l, 1); v.Allowed {
			t.Errorf("got %+v, want denied", v)
		}
	}},
	{"what can't be read denies until it is reset", func(t *testing.T, r *keeping) {
		l := slow("p", 5)
		for i, value := range []string{``, `null`, `[]`, `{}`, `{"buckets":{"p":{"f":1,"m":5}}}`, `{"buckets":{}}{}`} {
			key := fmt.Sprint("corrupt", i)
			if _, err := r.store.Put(soon(t), kv.Write{Key: "v1." + key, Value: []byte(value), TTL: time.Minute}); err != nil {
				t.Fatal(err)
			}
			for _, look := range []bool{false, true} {
				if out, err := r.consume(soon(t), key, []take{{l, 1}}, 1, look); err == nil || wire.CodeOf(err) != wire.Internal {
					t.Errorf("%q: got %+v (%v), want %s", value, out, err, wire.Internal)
				}
			}
			if _, _, err := r.consumeAll(soon(t), []keyed{{key, take{l, 1}}, {key + "b", take{l, 1}}}); err == nil || wire.CodeOf(err) != wire.Internal {
				t.Errorf("%q among others: got %v, want %s", value, err, wire.Internal)
			}
			if _, _, _, err := r.refund(soon(t), key, l, 1, "a"); err == nil || wire.CodeOf(err) != wire.Internal {
				t.Errorf("%q: refund: got %v, want %s", value, err, wire.Internal)
			}
			if _, err := r.reset(soon(t), key, l); err != nil {
				t.Errorf("%q: reset: %v", value, err)
			}
			expectGiven(t, "after the reset", take1(t, r.keeper, key, l, 1), 4)
			expectGiven(t, "the other one of two", take1(t, r.keeper, key+"b", l, 1), 4)
		}
	}},
	{"keys are those that have an entry, as they were asked for", func(t *testing.T, r *keeping) {
		if err := purge(t, r); err != nil {
			t.Fatal(err)
		}
		l := slow("p", 5)
		want := []string{"a b", "plain", "user:10.0.0.1", "é>*."}
		for _, key := range want {
			take1(t, r.keeper, key, l, 1)
			take1(t, r.keeper, key, l, 1)
		}
		if _, err := r.store.Put(soon(t), kv.Write{Key: "r.lease", Value: []byte("{}"), TTL: time.Minute}); err != nil {
			t.Fatal(err)
		}
		var got []string
		if err := r.keys(soon(t), func(key string) bool { got = append(got, key); return true }); err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		seen := 0
		if err := r.keys(soon(t), func(string) bool { seen++; return seen < 2 }); err != nil || seen != 2 {
			t.Errorf("stopped after %d of 2 (%v)", seen, err)
		}
	}},
	{"on an emptied store a limiter starts full", func(t *testing.T, r *keeping) {
		l := slow("p", 5)
		take1(t, r.keeper, "purged", l, 5)
		if err := purge(t, r); err != nil {
			t.Fatal(err)
		}
		expectGiven(t, "what knew the old state", take1(t, r.keeper, "purged", l, 1), 4)
		expectGiven(t, "what did not", take1(t, r.start(t, nil), "purged", l, 1), 3)
	}},
}

// purge empties the store and tells the keepers.
func purge(t *testing.T, r *keeping) error {
	t.Helper()
	_, err := r.store.Purge(soon(t))
	r.tell(t)
	return err
}

// tell has the keepers forget all that was written until now.
func (r *keeping) tell(t *testing.T) {
	t.Helper()
	revision, err := r.store.Put(soon(t), kv.Write{Key: "r.tell", Expect: kv.AnyRevision, TTL: time.Second, Value: []byte("{}")})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range r.all {
		k.forgetAll(revision)
	}
}
