package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/fairlead-io/fairlead/pkg/client"
)

// lentTopics are the topics of the rules that a stack is lent, with its groups
// and methods: nobody else's are there.
const lentTopics = "it."

// lentNames begin the names of rules and limits that are lent.
const lentNames = "it-"

// ruleKinds are the lists of rules in which the first that matches governs.
var ruleKinds = []string{"topics", "calls", "groups"}

// lentRules are what the tests need of a stack that is there already, below
// [lentTopics]: those of the stacks that they start themselves, together.
const lentRules = `
topics:
  - {match: "room.>", subscribe: user, publish: user, presence: {watch: user, join: user, leaveDelay: 1s}}
  - {match: "long.>", subscribe: user, publish: user, presence: {watch: user, join: user, leaveDelay: 6s}}
  - {match: "now.>", subscribe: user, publish: user, presence: {watch: user, join: user, leaveDelay: 0s}}
  - {match: "full.>", subscribe: user, publish: user, presence: {watch: user, join: user, leaveDelay: 0s, maxMembers: 2}}
  - {match: "huge.>", subscribe: user, publish: user, presence: {watch: user, join: user, leaveDelay: 0s, maxDiffMembers: 10}}
  - {match: "wild.>", subscribe: user, publish: user, wildcards: true, presence: {watch: user, join: user}}
  - {match: "blind.>", subscribe: user, publish: user, presence: {watch: none, join: user}}
  - {match: "mute.>", subscribe: user, publish: user, presence: {watch: user, join: none}}
  - {match: "shut.>", subscribe: none, publish: none, presence: {watch: user, join: user}}
  - {match: "doc.>", subscribe: user, publish: user, wildcards: true, cursors: {ttl: 1h}}
  - {match: "brief.>", subscribe: user, publish: user, cursors: {ttl: 1s}}
  - {match: "calm.>", subscribe: user, publish: user, cursors: {ttl: 1h, throttle: 300ms}}
  - {match: "hundred.>", subscribe: user, publish: user, rate: {publish: it-hundred}}
  - {name: it-chat, match: "chat.>", subscribe: user, publish: user, wildcards: true, from: true, replay: {size: 10000, ttl: 1h, dedupe: 2m}}
  - {name: it-plain, match: ">", subscribe: user, publish: user, wildcards: true, from: true}
limits:
  it-hundred: {capacity: 100, refill: 1, per: 8760h}
calls:
  - {match: ">", allow: user}
groups:
  - {match: ">", join: user, maxMembers: 10, roles: [member, admin, viewer], meta: [admin]}
`

// lent is a name as the rules that are lent have it.
func lent(name string) string {
	if guests.lent {
		return lentTopics + name
	}
	return name
}

// lentRule is the name of a rule of the tests.
func lentRule(name string) string {
	if guests.lent {
		return lentNames + name
	}
	return name
}

// lend puts the rules of the tests before those of the stack, as an operator
// does, and returns when every process follows them.
func lend() (giveBack func() error, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	nc, err := nats.Connect(operatorURL(), inbox(operatorURL()))
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	stored, err := readRules(ctx, js)
	if err != nil {
		return nil, fmt.Errorf("read the rules of the stack as an operator: %w", err)
	}
	theirs, err := withoutLent(stored)
	if err != nil {
		return nil, err
	}
	all, err := withLent(theirs)
	if err != nil {
		return nil, err
	}
	if err := applyRules(all); err != nil {
		return nil, err
	}
	return func() error { return applyRules(theirs) }, followed(ctx)
}

// readRules fails within seconds: who may not read them gets no answer.
func readRules(ctx context.Context, js jetstream.JetStream) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	bucket, err := js.KeyValue(ctx, "fl_config")
	if err != nil {
		return nil, err
	}
	entry, err := bucket.Get(ctx, "rules")
	if err != nil {
		return nil, err
	}
	return entry.Value(), nil
}

// applyRules is `fairlead rules apply`.
func applyRules(rules map[string]any) error {
	text, err := json.Marshal(rules)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "fairlead-rules-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "rules.yaml") // JSON is YAML
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	cmd := exec.Command(binary, "rules", "apply", file)
	cmd.Env = append(system(dir), "FAIRLEAD_NATS_URL="+operatorURL(), "FAIRLEAD_NATS_INBOX_PREFIX="+inboxPrefix(operatorURL()))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("fairlead rules apply: %w: %s", err, out)
	}
	return nil
}

// withoutLent are the stack's own rules: a run that was interrupted has not given
// them back.
func withoutLent(stored []byte) (map[string]any, error) {
	var rules map[string]any
	if err := json.Unmarshal(stored, &rules); err != nil {
		return nil, fmt.Errorf("the rules of the stack: %w", err)
	}
	delete(rules, "applied")
	limits, _ := rules["limits"].(map[string]any)
	maps.DeleteFunc(limits, func(name string, _ any) bool { return strings.HasPrefix(name, lentNames) })
	for _, kind := range ruleKinds {
		list, _ := rules[kind].([]any)
		rules[kind] = slices.DeleteFunc(list, func(rule any) bool {
			match, _ := rule.(map[string]any)["match"].(string)
			return strings.HasPrefix(match, lentTopics)
		})
	}
	return rules, nil
}

// withLent are the rules with those of the tests before them.
func withLent(theirs map[string]any) (map[string]any, error) {
	var ours, all map[string]any
	if err := yaml.Unmarshal([]byte(lentRules), &ours); err != nil {
		return nil, err
	}
	text, err := json.Marshal(theirs)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	limits, _ := all["limits"].(map[string]any)
	if limits == nil {
		limits = map[string]any{}
	}
	maps.Copy(limits, ours["limits"].(map[string]any))
	all["limits"] = limits
	for _, kind := range ruleKinds {
		list := ours[kind]
		for _, rule := range list.([]any) {
			one := rule.(map[string]any)
			one["match"] = lentTopics + one["match"].(string)
		}
		rest, _ := all[kind].([]any)
		all[kind] = append(list.([]any), rest...)
	}
	return all, nil
}

// followed waits until clients and the services behind them see the rules, many
// times in a row: whichever process is asked.
func followed(ctx context.Context) error {
	const inARow = 10
	var last error
	for n := 0; n < inARow; {
		if last = follows(ctx, n); last == nil {
			n++
			continue
		}
		n = 0
		select {
		case <-ctx.Done():
			return fmt.Errorf("the stack does not follow the rules it was lent: %w", last)
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

func follows(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	urls := strings.Split(os.Getenv(varURL), ",")
	c, err := client.Dial(ctx, urls[n%len(urls)], client.Options{Token: token("rules", nil)})
	if err != nil {
		return err
	}
	defer func() { c.Abort(); c.Wait() }()
	stored, err := c.Publish(ctx, lentTopics+"chat.rules", "", n, client.PublishOptions{})
	if err == nil && stored.Seq == 0 {
		err = errors.New("a message is not stored")
	}
	if err != nil {
		return err
	}
	if _, err := c.Request(ctx, "history", map[string]any{"topic": lentTopics + "chat.rules", "after": 0}); err != nil {
		return err
	}
	_, err = c.Subscribe(ctx, lentTopics+"now.rules", client.SubscribeOptions{Presence: "join"})
	return err
}

// What a stack is lent stands before its own rules, and leaves nothing behind,
// though the run before was interrupted.
func TestLentRulesStandBeforeTheOthers(t *testing.T) {
	t.Parallel()
	const theirs = `{
		"applied": {"by": "somebody"}, "topics": [{"match": "chat.>"}, {"match": "items.>"}], "limits": {"it": {"capacity": 1}},
		"calls": [], "groups": [{"match": ">"}], "bridges": []
	}`
	own, err := withoutLent([]byte(theirs))
	must(t, err)
	all, err := withLent(own)
	must(t, err)
	stored, err := json.Marshal(all)
	must(t, err)
	again, err := withoutLent(stored)
	must(t, err)
	if diff := cmp.Diff(own, again); diff != "" {
		t.Errorf("what is given back (-was +is):\n%s", diff)
	}
	for _, kind := range ruleKinds {
		lent := len(all[kind].([]any)) - len(own[kind].([]any))
		for i, rule := range all[kind].([]any) {
			match := rule.(map[string]any)["match"].(string)
			if strings.HasPrefix(match, lentTopics) != (i < lent) {
				t.Errorf("%s %d: %s, and %d are lent", kind, i, match, lent)
			}
		}
		if lent < 1 {
			t.Errorf("none of %s is lent", kind)
		}
	}
	if _, is := all["applied"]; is {
		t.Error("who applied the rules before is no key of a rules file")
	}
}
