//go:build browser

package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// script is the JavaScript client in a process of its own.
type script struct {
	t      *testing.T
	stdin  io.Writer
	events chan happening // closed when the process has ended
	kept   []happening    // those that were passed over
}

// happening is something that happened to it.
type happening struct {
	What, Topic, Event, State, Code, Outcome, Message string

	// A message, or the answer to a publish.
	Data, ID    any
	Seq, Prev   int64
	Ts          int64
	Duplicate   bool
	Recovered   bool
	Position    string
	MissingFrom int64
	Reason      string
	Stored      map[string]string
}

// startScript runs the client under node, which must be there, as must its
// packages: what is not tested here is tested nowhere.
func startScript(t *testing.T, stored map[string]string) *script {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("the JavaScript client needs Node: apt-get install nodejs npm: %v", err)
	}
	if _, err := os.Stat("../clients/js/node_modules/ws"); err != nil {
		t.Fatalf("the packages of the JavaScript client are missing: (cd clients/js && npm ci): %v", err)
	}
	holds, err := json.Marshal(stored)
	must(t, err)
	program, err := filepath.Abs("testdata/jsclient.mjs")
	must(t, err)
	cmd := exec.Command(node, program)
	cmd.Env = append(system(t.TempDir()), "FAIRLEAD_STORED="+string(holds))
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	stderr := newTranscript()
	cmd.Stderr = stderr
	must(t, cmd.Start())
	s := &script{t: t, stdin: stdin, events: make(chan happening, 100_000)}
	t.Cleanup(func() {
		stdin.Close()
		for range s.events { // until it has ended
		}
		if text := stderr.String(); text != "" {
			t.Errorf("node wrote %s", clip(text))
		}
	})
	go func() {
		defer close(s.events)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			var e happening
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				e = happening{What: "no JSON: " + lines.Text()}
			}
			s.events <- e
		}
		_ = cmd.Wait() // what it wrote says what went wrong
	}()
	return s
}

// browse starts a client that connects to a URL as a user.
func browse(t *testing.T, url, user string, stored map[string]string) *script {
	t.Helper()
	s := startScript(t, stored)
	s.do("connect", map[string]any{"url": url, "token": token(user, nil), "persist": "session", "reconnect": map[string]int{"max": 500}})
	return s
}

func (s *script) do(action string, fields map[string]any) {
	s.t.Helper()
	line := map[string]any{"action": action}
	for k, v := range fields {
		line[k] = v
	}
	text, err := json.Marshal(line)
	must(s.t, err)
	_, err = s.stdin.Write(append(text, '\n'))
	must(s.t, err)
}

// await returns the next event of a kind, and keeps the others for later.
func (s *script) await(what string) happening {
	s.t.Helper()
	for i, e := range s.kept {
		if e.What == what {
			s.kept = append(s.kept[:i:i], s.kept[i+1:]...)
			return e
		}
	}
	ctx := within(s.t)
	for {
		select {
		case e, ok := <-s.events:
			switch {
			case !ok:
				s.t.Fatalf("the client ended before %q; it said %+v", what, tail(s.kept))
			case e.What == what:
				return e
			}
			s.kept = append(s.kept, e)
		case <-ctx.Done():
			s.t.Fatalf("no %q came; it said %+v", what, tail(s.kept))
		}
	}
}

func tail(events []happening) []happening { return events[max(0, len(events)-20):] }

// subscribe subscribes from a position, "" for none, and returns how that went.
func (s *script) subscribe(topic, since string) happening {
	s.t.Helper()
	fields := map[string]any{"topic": topic}
	if since != "" {
		fields["since"] = since
	}
	s.do("subscribe", fields)
	return s.await("subscribed")
}

// messages returns the data of the next n messages, after a check that each
// continues the one before.
func (s *script) messages(n int, reached *int64) (data []string) {
	s.t.Helper()
	for len(data) < n {
		m := s.await("message")
		if m.Prev > *reached || m.Seq <= *reached {
			s.t.Fatalf("message %d, %v (seq %d, prev %d) does not continue %d", len(data), m.Data, m.Seq, m.Prev, *reached)
		}
		*reached = m.Seq
		data = append(data, fmt.Sprint(m.Data))
	}
	return data
}

// quiet checks that no message is left over: one that is published now is the
// next.
func (s *script) quiet(topic string, say func(topic, data string), reached *int64) {
	s.t.Helper()
	say(topic, `"over"`)
	if got, want := s.messages(1, reached)[0], "over"; got != want {
		s.t.Fatalf("message %s came in between", got)
	}
}

// leave leaves the page, and returns what its storage holds then.
func (s *script) leave() map[string]string {
	s.t.Helper()
	s.do("leave", nil)
	return s.await("left").Stored
}

// numberOf is the seq of a position as the client has it.
func numberOf(t *testing.T, position string) (seq int64) {
	t.Helper()
	if _, err := fmt.Sscanf(strings.Split(position, ":")[0], "%d", &seq); err != nil {
		t.Fatalf("position %q: %v", position, err)
	}
	return seq
}
