package compose

import (
	"fmt"
	"strings"
	"testing"
)

// refusals returns what the logs of NATS servers say that somebody wanted and may
// not, each once, with one exception: what was wanted on purpose, to see that the
// logs reach back to then, and that a refusal in them is taken for one.
func refusals(logs string, onPurpose string) (wrong []string) {
	seen, proven := map[string]bool{}, false
	for line := range strings.Lines(logs) {
		if !strings.Contains(line, "Violation") && !strings.Contains(line, "authentication error") {
			continue
		}
		if strings.Contains(line, onPurpose) {
			proven = true
			continue
		}
		what := strings.TrimSpace(line)
		if _, who, ok := strings.Cut(what, `"FAIRLEAD/user:`); ok { // else where and when stay in
			what = who
		}
		what, _, _ = strings.Cut(what, ", SID ")
		if !seen[what] {
			seen[what] = true
			wrong = append(wrong, "NATS refuses what is needed: "+what)
		}
	}
	if !proven {
		wrong = append(wrong, fmt.Sprintf("the logs do not have that %s was refused: they have no refusals, or do not reach back to then", onPurpose))
	}
	return wrong
}

func TestTheCheckerOfPermissions(t *testing.T) {
	t.Parallel()
	const (
		calm     = `[1] 2026/01/02 03:04:05.6 [INF] Server is ready` + "\n"
		onceMore = `[1] 2026/01/02 03:04:05.6 [ERR] 172.18.0.9:5 - cid:9 - "v1.49:go:one" - "FAIRLEAD/user:worker" - Publish Violation - Subject "no.trespassing"` + "\n"
		publish  = `[1] 2026/01/02 03:04:05.6 [ERR] 172.18.0.7:4 - cid:7 - "v1.49:go" - "FAIRLEAD/user:tasks" - Publish Violation - Subject "fl.x"` + "\n"
		other    = `[1] 2026/01/02 03:04:06.6 [ERR] 172.18.0.8:4 - cid:8 - "v1.49:go" - "FAIRLEAD/user:replay" - Subscription Violation - Subject "fl.y", SID ` // and a number
		unknown  = `[1] 2026/01/02 03:04:06.6 [ERR] 172.18.0.8:4 - cid:8 - authentication error - User "gateway"` + "\n"
		missing  = "the logs do not have that no.trespassing was refused: they have no refusals, or do not reach back to then"
	)
	for _, c := range []struct{ name, logs, want string }{
		{"nothing but what was on purpose", calm + onceMore + calm, ""},
		{"a refusal", calm + onceMore + publish, `NATS refuses what is needed: tasks" - Publish Violation - Subject "fl.x"`},
		{"the same ones twice", onceMore + other + "7\n" + publish + other + "8\n" + publish, `NATS refuses what is needed: replay" - Subscription Violation - Subject "fl.y"; NATS refuses what is needed: tasks" - Publish Violation - Subject "fl.x"`},
		{"somebody who may not come in", onceMore + unknown, "NATS refuses what is needed: " + strings.TrimSpace(unknown)},
		{"logs that were begun anew", calm, missing},
		{"no logs", "", missing},
		{"one of another kind only", publish, `NATS refuses what is needed: tasks" - Publish Violation - Subject "fl.x"; ` + missing},
		{"what was on purpose is told of, and not as a refusal", calm + `worker says: no.trespassing` + "\n", missing},
	} {
		if got := strings.Join(refusals(c.logs, "no.trespassing"), "; "); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
}
