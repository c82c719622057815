package fairlead_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/fairlead"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// anyID is that of a wait.
var anyID = regexp.MustCompile(`,"id":"[A-Z2-7]{26}"`)

// What the service is asked about jobs, and what comes of its answers.
func TestJobs(t *testing.T) {
	t.Parallel()
	r := start(t, fairlead.Options{})
	ctx := t.Context()
	j := r.f.Jobs("mails")
	had := []wire.Job{{ID: 7, Claim: 3}, {ID: 8, Claim: 1}}
	refs := `"jobs":[{"id":"7","claim":3},{"id":"8","claim":1}]`
	tests := []struct {
		endpoint, want, reply string
		do                    func() string
		got                   string
	}{
		{
			"enqueue", `{"queue":"mails","payload":{"a":1},"delay":"1s","maxAttempts":3}`, `{"id":"7"}`,
			func() string {
				return fmt.Sprintln(j.Enqueue(ctx, map[string]int{"a": 1}, fairlead.JobOptions{Delay: time.Second, MaxAttempts: 3}))
			}, "7 <nil>\n",
		},
		{"enqueue", `{"queue":"mails","jobs":[{"payload":1},{"payload":null}]}`, `{"ids":["7","8"]}`, func() string { return fmt.Sprintln(j.EnqueueAll(ctx, []any{1, nil}, fairlead.JobOptions{})) }, "[7 8] <nil>\n"},
		{
			"claim", `{"queue":"mails","batch":2,"visibility":"1m0s","wait":"2s"}`, `{"jobs":[{"id":"7","claim":3,"queue":"mails","payload":{"a":1},"attempts":1,"createdAt":"2030-01-01T00:00:00Z"}]}`,
			func() string {
				jobs, err := j.Claim(ctx, fairlead.ClaimOptions{Batch: 2, Visibility: time.Minute, Wait: 2 * time.Second})
				return fmt.Sprintln(len(jobs), jobs[0].ID, jobs[0].Claim, string(jobs[0].Payload), err)
			}, "1 7 3 {\"a\":1} <nil>\n",
		},
		{"complete", `{` + refs + `}`, `{"lost":["8"]}`, func() string { return fmt.Sprintln(j.Complete(ctx, had...)) }, "[8] <nil>\n"},
		{"fail", `{` + refs + `,"by":"5s"}`, `{"lost":[]}`, func() string { return fmt.Sprintln(j.Fail(ctx, 5*time.Second, had...)) }, "[] <nil>\n"},
		{"extend", `{` + refs + `}`, `{"lost":[]}`, func() string { return fmt.Sprintln(j.Extend(ctx, 0, had...)) }, "[] <nil>\n"},
		{"pending", `{"queue":"mails"}`, `{"count":4}`, func() string { return fmt.Sprintln(j.Pending(ctx)) }, "{4 false} <nil>\n"},
		{"clear", `{"queue":"mails"}`, `{"count":4}`, func() string { return fmt.Sprintln(j.Clear(ctx)) }, "{4 false} <nil>\n"},
	}
	for _, test := range tests {
		asked := r.serveOnce("fl.svc.tasks.job."+test.endpoint, test.reply)
		if got := test.do(); got != test.got {
			t.Errorf("%s: got %s, want %s", test.endpoint, got, test.got)
		}
		if got := anyID.ReplaceAllString(string(receive(t, asked).Data), ""); got != test.want {
			t.Errorf("%s: asked\n     %s\nwant %s", test.endpoint, got, test.want)
		}
	}
	_, err := r.f.Jobs("").Clear(ctx)
	coded(t, err, wire.InvalidArgument)
	_, err = j.EnqueueAll(ctx, []any{make(chan int)}, fairlead.JobOptions{})
	coded(t, err, wire.InvalidArgument)
}

// A long wait is many short ones, and the one that nobody waits for any more is
// ended.
func TestAClaimThatIsCancelled(t *testing.T) {
	t.Parallel()
	r := start(t, fairlead.Options{})
	claims, left := r.listen("fl.svc.tasks.job.claim"), r.listen("fl.svc.tasks.job.leave")
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() {
		_, err := r.f.Jobs("mails").Claim(ctx, fairlead.ClaimOptions{Wait: time.Minute})
		over <- err
	}()
	read := func(msg *nats.Msg) (c wire.JobClaim) {
		must(t, json.Unmarshal(msg.Data, &c))
		return c
	}
	first := r.next(claims)
	if c := read(first); c.Wait != "5s" || c.ID == "" {
		t.Errorf("asked to wait for %s, as %q", c.Wait, c.ID)
	}
	must(t, first.Respond([]byte(`{"jobs":[]}`)))
	second := read(r.next(claims))
	if second.Wait != "5s" || second.ID == read(first).ID {
		t.Errorf("asked again to wait for %s, as %q", second.Wait, second.ID)
	}
	cancel()
	if err := receive(t, over); !errors.Is(err, wire.ErrCancelled) {
		t.Errorf("Claim: %v", err)
	}
	var leave wire.JobLeave
	must(t, json.Unmarshal(r.next(left).Data, &leave))
	if leave.ID != second.ID {
		t.Errorf("%q waits no longer, want %q", leave.ID, second.ID)
	}
}
