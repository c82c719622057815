package ratelimit

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// members returns the names of a reply's members, in order.
func members(fields map[string]any) (names []string) {
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// The shapes of what consume and peek answer are the contract with every worker.
func TestAnswersOverNATS(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1)
	shape := func(a rigAnswer, want ...string) {
		t.Helper()
		slices.Sort(want)
		got := slices.DeleteFunc(members(a.fields), func(name string) bool { return name == "revision" || name == "version" })
		if !slices.Equal(got, want) {
			t.Errorf("%s: the members are %v, want %v", a.text, got, want)
		}
		for name, value := range a.fields {
			if n, ok := value.(float64); ok && n != float64(int64(n)) {
				t.Errorf("%s: %s is no whole number", a.text, name)
			}
		}
	}
	shape(r.wants("peek", `{"policy":"five","key":"k"}`, `{"allowed":true,"remaining":5,"limit":5,"resetMs":0}`), "allowed", "remaining", "limit", "resetMs")
	shape(r.wants("consume", `{"policy":"five","key":"k"}`, `{"allowed":true,"remaining":4,"limit":5}`), "allowed", "remaining", "limit", "resetMs")
	shape(r.wants("consume", `{"policy":"five","key":"k","cost":4}`, `{"allowed":true,"remaining":0}`), "allowed", "remaining", "limit", "resetMs")
	denied := r.wants("consume", `{"policy":"five","key":"k","cost":2}`, `{"allowed":false,"remaining":0,"limit":5}`)
	shape(denied, "allowed", "remaining", "limit", "resetMs", "retryAfterMs")
	if ms := denied.fields["retryAfterMs"].(float64); ms <= 7_100_000 || ms > 7_200_000 {
		t.Errorf("2 tokens of one an hour: retry after %v ms", ms)
	}
	never := r.wants("consume", `{"policy":"five","key":"other","cost":6}`, `{"allowed":false,"remaining":5,"limit":5,"retryAfterMs":null}`)
	shape(never, "allowed", "remaining", "limit", "resetMs", "retryAfterMs")
	r.wants("consume", `{"policy":"five","key":"k","cost":0}`, `{"allowed":true,"remaining":0}`)
	r.wants("peek", `{"policy":"five","key":"k","cost":1}`, `{"allowed":false,"remaining":0}`)
	r.wants("consume", `{"policy":"ten","key":"k","cost":3}`, `{"allowed":true,"remaining":7}`)

	r.wants("consume", `{"policy":"block","key":"k","cost":2}`, `{"allowed":true}`)
	banned := r.wants("consume", `{"policy":"block","key":"k"}`, `{"allowed":false,"banned":true,"remaining":0}`)
	shape(banned, "allowed", "banned", "remaining", "limit", "resetMs", "retryAfterMs")
	if ms := banned.fields["retryAfterMs"].(float64); ms < 590_000 || ms > 600_000 {
		t.Errorf("a ban of 10m: retry after %v ms", ms)
	}
	r.wants("consume", `{"policy":"block","key":"never","cost":3}`, `{"allowed":false,"retryAfterMs":null}`)
	r.wants("consume", `{"policy":"block","key":"never","cost":2}`, `{"allowed":true}`)

	r.wants("consume", `{"policy":"dark","key":"k","cost":2}`, `{"allowed":true}`)
	shape(r.wants("consume", `{"policy":"dark","key":"k"}`, `{"allowed":true,"shadowed":true,"remaining":0}`), "allowed", "shadowed", "remaining", "limit", "resetMs")
}

func TestBatchesAreDecidedInOrder(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1)
	a := r.wants("consume", `{"batch":[{"policy":"five","key":"a","n":3},{"policy":"five","key":"b","cost":2,"n":100000},{"policy":"five","key":"a","cost":2},{"policy":"ten","key":"a","n":4},{"policy":"five","key":"a"}]}`, `{"allowed":false}`)
	items := a.fields["batch"].([]any)
	if len(items) != 5 {
		t.Fatalf("%d of 5 answers", len(items))
	}
	for i, want := range []struct {
		granted, remaining float64
		allowed            bool
	}{{3, 2, true}, {2, 1, false}, {1, 0, true}, {4, 6, true}, {0, 0, false}} {
		got := items[i].(map[string]any)
		if got["granted"] != want.granted || got["remaining"] != want.remaining || got["allowed"] != want.allowed {
			t.Errorf("item %d: got %v, want %+v", i, got, want)
		}
	}
	if ms := a.fields["retryAfterMs"].(float64); ms < 3_500_000 {
		t.Errorf("all together wait %v ms, want the longest", ms)
	}
}

func TestTakesAreGivenTogetherOrNotAtAll(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1)
	r.wants("consume", `{"takes":[{"policy":"five","key":"u"},{"policy":"ten","key":"u","cost":4}]}`, `{"allowed":true,"remaining":4,"limit":5}`)
	r.wants("consume", `{"takes":[{"policy":"five","key":"u"},{"policy":"ten","key":"u","cost":7}]}`, `{"allowed":false,"remaining":6,"limit":10}`)
	r.wants("peek", `{"policy":"five","key":"u"}`, `{"remaining":4}`)
	// Twice the same bucket is one take of both.
	r.wants("consume", `{"takes":[{"policy":"five","key":"u","cost":2},{"policy":"five","key":"u","cost":3}]}`, `{"allowed":false,"remaining":4}`)
	r.wants("consume", `{"takes":[{"policy":"five","key":"u","cost":3},{"policy":"five","key":"u","cost":3}]}`, `{"allowed":false,"retryAfterMs":null}`)
	r.wants("consume", `{"takes":[{"policy":"five","key":"u","cost":1},{"policy":"five","key":"u","cost":3}]}`, `{"allowed":true,"remaining":0}`)

	// Several keys, of which each has an entry of its own.
	both := `{"takes":[{"policy":"five","key":"x","cost":3},{"policy":"five","key":"y","cost":2}]}`
	r.wants("peek", both, `{"allowed":true}`)
	a := r.wants("consume", both, `{"allowed":true,"remaining":2}`)
	if all := a.fields["takes"].([]any); len(all) != 2 || all[1].(map[string]any)["remaining"] != 3.0 {
		t.Errorf("got %s, want 2 of x and 3 of y left", a.text)
	}
	r.wants("peek", both, `{"allowed":false}`)
	r.wants("consume", both, `{"allowed":false}`)
	r.wants("peek", `{"policy":"five","key":"y"}`, `{"remaining":3}`)
	// A ban of one key is none of a denial among others.
	r.wants("consume", `{"takes":[{"policy":"block","key":"x","cost":2},{"policy":"five","key":"y","cost":5}]}`, `{"allowed":false}`)
	r.wants("peek", `{"policy":"block","key":"x","cost":2}`, `{"allowed":true,"remaining":2}`)
}

func TestRequestsAreChecked(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1)
	const invalid = "INVALID_ARGUMENT"
	many := func(item string, n int) string { return strings.TrimSuffix(strings.Repeat(item+",", n), ",") }
	good := `{"policy":"five","key":"k"}`
	for _, endpoint := range []string{"consume", "peek", "consume." + r.replicas[0].id} {
		for _, c := range []struct{ body, field string }{
			{``, "policy"}, {`{}`, "policy"}, {`{"key":"k"}`, "policy"}, {`{"policy":5,"key":"k"}`, "policy"}, {`nonsense`, "request"}, {`[]`, "request"},
			{`{"policy":"five"}`, "key"}, {`{"policy":"five","key":""}`, "key"}, {`{"policy":"five","key":["k"]}`, "key"},
			{`{"policy":"five","key":"` + strings.Repeat("k", 256) + `"}`, "key"}, {`{"policy":"five","key":"a\u0007"}`, "key"}, {`{"policy":"five","key":"a\u007f"}`, "key"},
			{`{"policy":"five","key":"k","cost":1.5}`, "cost"}, {`{"policy":"five","key":"k","cost":-1}`, "cost"}, {`{"policy":"five","key":"k","cost":"1"}`, "cost"},
			{`{"policy":"five","key":"k","n":2}`, "n"}, {`{"takes":[{"policy":"five","key":"k","n":2}]}`, "takes[0].n"},
			{`{"takes":[]}`, "takes"}, {`{"batch":[]}`, "batch"}, {`{"takes":7}`, "takes"},
			{`{"takes":[` + many(good, 101) + `]}`, "takes"}, {`{"batch":[` + many(good, 101) + `]}`, "batch"},
			{`{"takes":[` + good + `,{"policy":"five","key":"","cost":1}]}`, "takes[1].key"}, {`{"batch":[` + good + `,{"key":"k"}]}`, "batch[1].policy"},
			{`{"batch":[{"policy":"five","key":"k","cost":-2}]}`, "batch[0].cost"}, {`{"batch":[{"policy":"five","key":"k","n":0}]}`, "batch[0].n"}, {`{"batch":[{"policy":"five","key":"k","n":100001}]}`, "batch[0].n"},
			{`{"policy":"five","key":"k","takes":[` + good + `]}`, "takes"}, {`{"cost":1,"batch":[` + good + `]}`, "batch"}, {`{"takes":[` + good + `],"batch":[` + good + `]}`, "takes"},
		} {
			r.refused(endpoint, c.body, invalid, "field", c.field)
		}
		r.refused(endpoint, `{"policy":"nope","key":"k"}`, "NOT_FOUND", "policy", "nope")
		r.refused(endpoint, `{"takes":[`+good+`,{"policy":"nope","key":"k"}]}`, "NOT_FOUND", "policy", "nope")
		r.refused(endpoint, `{"batch":[{"policy":"nope","key":"k"}]}`, "NOT_FOUND", "policy", "nope")
	}
	for _, endpoint := range []string{"refund", "reset", "ban", "unban"} {
		rest := `,"id":"i","duration":"1s"}`
		r.refused(endpoint, `{"key":"k"`+rest, invalid, "field", "policy")
		r.refused(endpoint, `{"policy":"five"`+rest, invalid, "field", "key")
		r.refused(endpoint, `{"policy":"five","key":"a\u0000"`+rest, invalid, "field", "key")
		r.refused(endpoint, `{"policy":"five","key":7`+rest, invalid, "field", "key")
		r.refused(endpoint, `{"policy":"nope","key":"k"`+rest, "NOT_FOUND", "policy", "nope")
	}
	for _, id := range []string{``, `,"id":""`, `,"id":"` + strings.Repeat("i", 129) + `"`, `,"id":"\n"`, `,"id":5`} {
		r.refused("refund", `{"policy":"five","key":"k"`+id+`}`, invalid, "field", "id")
	}
	r.refused("refund", `{"policy":"five","key":"k","id":"i","cost":-1}`, invalid, "field", "cost")
	r.refused("refund", `{"policy":"five","key":"k","id":"i","cost":0.5}`, invalid, "field", "cost")
	for _, d := range []string{"0s", "-1s", "1", "1d", "9000h", "soon"} {
		r.refused("ban", `{"policy":"five","key":"k","duration":"`+d+`"}`, invalid, "field", "duration")
	}
	r.refused("policy", `{}`, invalid, "field", "policy")
	want := `the rules have no limit "nope": they have block, dark, five, large, ten`
	if got := r.ask("policy", `{"policy":"nope"}`).headers.Get("Nats-Service-Error"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	r.refused("policy", `{"policy":"nope"}`, "NOT_FOUND", "policy", "nope")
	r.refused("clear", `{"policy":"nope"}`, "NOT_FOUND", "policy", "nope")
	// Nothing of it was charged.
	r.wants("peek", good, `{"remaining":5}`)
	// What a later version adds is ignored, and a key is any text.
	r.wants("consume", `{"policy":"five","key":"`+strings.Repeat("\u00fc*>. ", 36)+`","later":true}`, `{"allowed":true}`)
}

func TestRefundsResetsAndBans(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1)
	r.wants("consume", `{"policy":"five","key":"k","cost":4}`, `{"remaining":1}`)
	r.wants("refund", `{"policy":"five","key":"k","cost":2,"id":"a"}`, `{"remaining":3}`)
	r.wants("refund", `{"policy":"five","key":"k","cost":2,"id":"a"}`, `{"remaining":3}`)
	r.wants("refund", `{"policy":"five","key":"k","id":"b"}`, `{"remaining":4}`)
	r.wants("refund", `{"policy":"five","key":"k","cost":9,"id":"c"}`, `{"remaining":5}`)

	r.wants("consume", `{"policy":"block","key":"k","cost":2}`, `{"allowed":true}`)
	r.wants("consume", `{"policy":"block","key":"k"}`, `{"banned":true}`)
	if a := r.wants("reset", `{"policy":"block","key":"k"}`, `{}`); a.text != "{}" {
		t.Errorf("reset: %s, want {}", a.text)
	}
	r.wants("consume", `{"policy":"block","key":"k"}`, `{"allowed":true,"remaining":1}`)
	// A ban lasts as long as it says, else as the policy, else a minute.
	for _, c := range []struct {
		policy, duration string
		want             time.Duration
	}{{"five", `,"duration":"1h30m"`, 90 * time.Minute}, {"block", "", 10 * time.Minute}, {"ten", "", time.Minute}} {
		r.wants("ban", `{"policy":"`+c.policy+`","key":"b"`+c.duration+`}`, `{}`)
		a := r.wants("consume", `{"policy":"`+c.policy+`","key":"b"}`, `{"allowed":false,"banned":true,"remaining":0}`)
		if ms := time.Duration(a.fields["retryAfterMs"].(float64)) * time.Millisecond; ms > c.want || ms < c.want-10*time.Second {
			t.Errorf("%s: retry after %s, want %s", c.policy, ms, c.want)
		}
		r.wants("unban", `{"policy":"`+c.policy+`","key":"b"}`, `{}`)
		r.wants("peek", `{"policy":"`+c.policy+`","key":"b"}`, `{"allowed":true}`)
	}
	r.wants("unban", `{"policy":"five","key":"nobody"}`, `{}`)
	r.wants("reset", `{"policy":"five","key":"nobody"}`, `{}`)
}

func TestPolicyFollowsTheRules(t *testing.T) {
	t.Parallel()
	r := startRig(t, 1)
	was := r.wants("policy", `{"policy":"block"}`, `{"name":"block","capacity":2,"refill":1,"per":"1h","block":"10m","key":"user","failMode":"closed","shadow":false}`)
	r.wants("policy", `{"policy":"large"}`, `{"capacity":1000000,"block":"0s","key":"address","failMode":"open"}`)
	r.wants("consume", `{"policy":"block","key":"k","cost":2}`, `{"remaining":0}`)
	r.replaceRules(strings.Replace(rigRules, "block: {capacity: 2, refill: 1, per: 1h, block: 10m}", "block: {capacity: 7, refill: 1, per: 90m, shadow: true}", 1))
	r.eventually("the new policy", func() bool { return r.ask("policy", `{"policy":"block"}`).fields["capacity"] == 7.0 })
	is := r.wants("policy", `{"policy":"block"}`, `{"capacity":7,"per":"1h30m","block":"0s","shadow":true}`)
	if is.fields["version"] == was.fields["version"] || is.fields["version"] == "" {
		t.Errorf("the version is %v before and after", is.fields["version"])
	}
	// What was taken stays taken.
	r.wants("consume", `{"policy":"block","key":"k"}`, `{"allowed":true,"limit":7,"remaining":4}`)
	r.replaceRules("topics: [{match: \">\"}]\n")
	r.eventually("the policy to be gone", func() bool {
		return r.ask("consume", `{"policy":"block","key":"k"}`).code == "NOT_FOUND"
	})
}

func TestClear(t *testing.T) {
	t.Parallel()
	r := startRig(t, 2)
	const keys = 300
	for from := 0; from < keys; from += 50 {
		var items []string
		for i := from; i < from+50; i++ {
			items = append(items, fmt.Sprintf(`{"policy":"five","key":"k.%d é","cost":5},{"policy":"ten","key":"k.%d é","cost":10}`, i, i))
		}
		r.wants("consume", `{"batch":[`+strings.Join(items, ",")+`]}`, `{"allowed":true}`)
	}
	later := "$KV.fl_ratelimit.v2.k"
	if _, err := r.nc.Request(later, []byte("of a later version"), rigPatience); err != nil {
		t.Fatal(err)
	}
	everywhere := func(body, members string) {
		t.Helper()
		for _, s := range r.replicas {
			r.wants("consume."+s.id, body, members)
		}
	}
	full := func(policy string, key int) string {
		return fmt.Sprintf(`{"policy":"%s","key":"k.%d é","cost":0}`, policy, key)
	}
	everywhere(full("five", 7), `{"remaining":0}`) // both know it now
	r.wants("clear", `{"policy":"five"}`, fmt.Sprintf(`{"count":%d}`, keys))
	r.eventually("both replicas to hear of it", func() bool {
		for _, s := range r.replicas {
			if r.ask("consume."+s.id, full("five", 7)).fields["remaining"] != 5.0 {
				return false
			}
		}
		return true
	})
	for _, key := range []int{0, 150, keys - 1} {
		everywhere(full("five", key), `{"remaining":5}`)
		everywhere(full("ten", key), `{"remaining":0}`)
	}
	r.wants("clear", `{"policy":"five"}`, `{"count":0}`)
	r.wants("clear", ``, fmt.Sprintf(`{"count":%d}`, keys))
	r.eventually("both replicas to hear of it", func() bool {
		for _, s := range r.replicas {
			if r.ask("consume."+s.id, full("ten", 0)).fields["remaining"] != 10.0 {
				return false
			}
		}
		return true
	})
	everywhere(full("ten", 99), `{"remaining":10}`)
	r.wants("consume", `{"policy":"five","key":"k.1 é"}`, `{"allowed":true,"remaining":4}`)
	// Entries of another version are another service's.
	stream, err := r.store.JetStream.Stream(t.Context(), "KV_fl_ratelimit")
	if err != nil {
		t.Fatal(err)
	}
	if msg, err := stream.GetLastMsgForSubject(t.Context(), later); err != nil || string(msg.Data) != "of a later version" {
		t.Errorf("what another version stored: %v, %v", msg, err)
	}
}
