//go:build browser

package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/nats-io/nats.go"
)

// command is a command for the nats tool, as the page shows it.
type command struct {
	verb, subject, data string
	header              nats.Header
}

func (c command) String() string { return "nats " + c.verb + " " + c.subject }

// commands reads every command on the page, by what it is for.
func (p *tab) commands() map[string]command {
	p.t.Helper()
	text, err := chromedp.Run(p.ctx, chromedp.Evaluate[string](
		`JSON.stringify(Object.fromEntries([...document.querySelectorAll("[data-nats-cmd]")].map((e) => [e.dataset.natsCmd, e.textContent])))`))
	must(p.t, err)
	var shown map[string]string
	must(p.t, json.Unmarshal([]byte(text), &shown))
	commands := map[string]command{}
	for what, line := range shown {
		c, err := parseCommand(line)
		if err != nil {
			p.t.Errorf("the command for %q: %s: %v", what, line, err)
		}
		commands[what] = c
	}
	return commands
}

// parseCommand reads `nats pub|sub|req|reply SUBJECT [DATA] [-H Name:value]…`.
func parseCommand(line string) (c command, err error) {
	words, err := shellWords(line)
	if err != nil || len(words) < 3 || words[0] != "nats" {
		return c, fmt.Errorf("not nats VERB SUBJECT: %q, %w", words, err)
	}
	c = command{verb: words[1], header: nats.Header{}}
	var operands []string
	for i := 2; i < len(words); i++ {
		if words[i] != "-H" {
			operands = append(operands, words[i])
			continue
		}
		if i++; i == len(words) {
			return c, fmt.Errorf("-H without a header")
		}
		name, value, ok := strings.Cut(words[i], ":")
		if !ok {
			return c, fmt.Errorf("-H %s: not name:value", words[i])
		}
		c.header.Add(name, value)
	}
	wanted := map[string]int{"pub": 2, "req": 2, "reply": 2, "sub": 1}[c.verb]
	if wanted == 0 || len(operands) != wanted {
		return c, fmt.Errorf("%s with %d operands", c.verb, len(operands))
	}
	if c.subject = operands[0]; wanted == 2 {
		c.data = operands[1]
	}
	return c, nil
}

// shellWords splits a line as a shell does, as far as quotes go.
func shellWords(line string) (words []string, err error) {
	var word strings.Builder
	inWord, quote := false, rune(0)
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ':
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		case strings.ContainsRune("<>|&;$`\\*?(){}", r):
			return nil, fmt.Errorf("%q would mean something to a shell", r)
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote is open")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// run does what the nats tool would do, and returns the answer of a request. A
// reply serves until the test ends.
func (c command) run(t *testing.T, nc *nats.Conn) (answer string) {
	t.Helper()
	msg := &nats.Msg{Subject: c.subject, Header: c.header, Data: []byte(c.data)}
	var err error
	switch c.verb {
	case "pub":
		err = nc.PublishMsg(msg)
	case "req":
		var reply *nats.Msg
		if reply, err = nc.RequestMsg(msg, patience); err == nil {
			answer = string(reply.Data)
		}
	case "reply":
		_, err = nc.QueueSubscribe(c.subject, "NATS-RPLY-22", func(m *nats.Msg) {
			if err := m.Respond([]byte(c.data)); err != nil {
				t.Errorf("%s: %v", c, err)
			}
		})
	default:
		err = fmt.Errorf("not to be run: %s", c.verb)
	}
	if err == nil {
		err = nc.FlushTimeout(patience)
	}
	if err != nil {
		t.Errorf("%s: %v", c, err)
	}
	return answer
}

func TestBrowserCommandsAreReadAsAShellWould(t *testing.T) {
	c, err := parseCommand(`nats pub fl.user.ann '{"text":"psst it"}' -H Fl-Event:whisper`)
	if err != nil || c.verb != "pub" || c.subject != "fl.user.ann" || c.data != `{"text":"psst it"}` || c.header.Get("Fl-Event") != "whisper" {
		t.Errorf("got %+v, %v", c, err)
	}
	for _, bad := range []string{"", "nats", "nats sub fl.>", "nats pub a", "nats pub a 'b", "nats pub a b -H", "nats rm a", "rm -rf x", "nats pub a $HOME"} {
		if c, err := parseCommand(bad); err == nil {
			t.Errorf("%q: got %+v, want an error", bad, c)
		}
	}
}
