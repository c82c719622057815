//go:build browser

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/nats-io/nats.go"
)

// The demo page in a real Chromium: what Ann sends Bob sees, and every command
// that the page shows does what the page says it does.
func TestBrowserDemoPageShowsOneConversationAndItsCommandsWork(t *testing.T) {
	g, natsURL := startDev(t)
	page := openPage(t, g.http("/demo"))
	worker := connect(t, natsURL)

	page.until(`document.querySelector("#pane-ann [data-role=state]").dataset.state === "open"`)
	page.until(`document.querySelector("#pane-bob [data-role=state]").dataset.state === "open"`)

	commands := page.commands()
	for _, what := range []string{"publish", "subscribe", "reply", "direct", "request"} {
		if commands[what].verb == "" {
			t.Fatalf("the page shows no command for %q: %v", what, commands)
		}
	}

	// The listener that the page shows hears what the panes say.
	heard := listen(t, worker, commands["subscribe"].subject)
	page.do(chromedp.SendKeys(chromedp.CSS("#pane-ann [data-role=text]"), "hello Bob"), chromedp.Click(chromedp.CSS("#pane-ann [data-role=send]")))
	for _, pane := range []string{"ann", "bob"} {
		page.shows(pane, "ann", "hello Bob")
	}
	if got, want := string(hear(t, heard).Data), `{"text":"hello Bob"}`; got != want {
		t.Errorf("%s hears %s, want %s", commands["subscribe"], got, want)
	}
	page.do(chromedp.SendKeys(chromedp.CSS("#pane-bob [data-role=text]"), "hello <b>Ann</b>\r"))
	page.shows("ann", "bob", "hello <b>Ann</b>") // as text, not as markup
	hear(t, heard)

	commands["publish"].run(t, worker)
	for _, pane := range []string{"ann", "bob"} {
		page.shows(pane, "worker", "hi from a worker")
	}
	hear(t, heard)

	// A call: nobody serves, then the command does.
	page.do(chromedp.Click(chromedp.CSS("[data-role=call]")))
	page.until(`document.querySelector("[data-role=call-result]").textContent.includes("UNIMPLEMENTED")`)
	commands["reply"].run(t, worker)
	page.until(`!document.querySelector("[data-role=call]").disabled`)
	page.do(chromedp.Click(chromedp.CSS("[data-role=call]")))
	page.until(`document.querySelector("[data-role=call-result]").textContent.includes('{"hello":"world"}')`)

	// A direct message: Ann sees it, Bob does not.
	commands["direct"].run(t, worker)
	page.until(`document.querySelector("[data-role=inbox]").textContent.includes("psst")`)
	page.until(`[...document.querySelectorAll("#pane-ann [data-event=whisper]")].some((m) => m.textContent.includes("psst"))`)

	// A question: Ann's browser answers it by a click.
	answer := make(chan string, 1)
	go func() { answer <- commands["request"].run(t, worker) }()
	page.do(chromedp.WaitVisible(chromedp.CSS("[data-answer=yes]")), chromedp.Click(chromedp.CSS("[data-answer=yes]")))
	if got, want := receive(t, answer), `{"answer":"yes"}`; got != want {
		t.Errorf("the page answers %s, want %s", got, want)
	}

	// A dropped connection comes back by itself and hears what is said then.
	page.do(chromedp.Click(chromedp.CSS("#pane-bob [data-role=drop]")))
	page.until(`[...document.querySelectorAll("#pane-bob .note")].some((n) => n.textContent.includes("connected again"))`)
	must(t, worker.Publish("fl.topic.chat.lobby", []byte(`{"text":"after the drop"}`)))
	for _, pane := range []string{"ann", "bob"} {
		page.shows(pane, "worker", "after the drop")
	}
	if whispers := page.count(`document.querySelectorAll("#pane-bob [data-event=whisper]").length`); whispers != 0 {
		t.Errorf("Bob sees %d direct messages of Ann's, want none", whispers)
	}
	if bold := page.count(`document.querySelectorAll(".messages b").length`); bold != 0 {
		t.Errorf("%d messages became markup, want none", bold)
	}
	page.clean()
}

// The same page over two gateways: each pane is on its own.
func TestBrowserPanesOnTwoGateways(t *testing.T) {
	g, natsURL := startDev(t)
	second := startGateway(t, natsURL, "FAIRLEAD_ORIGINS=http://"+g.addr)
	page := openPage(t, g.http("/demo?ws2="+second.ws()))
	page.until(`document.querySelector("#pane-ann [data-role=state]").dataset.state === "open"`)
	page.until(`document.querySelector("#pane-bob [data-role=state]").dataset.state === "open"`)
	page.until(`document.querySelector("#pane-bob [data-role=gateway]").textContent.includes("` + second.addr + `")`)
	page.do(chromedp.SendKeys(chromedp.CSS("#pane-ann [data-role=text]"), "from the first\r"))
	page.shows("bob", "ann", "from the first")
	page.do(chromedp.SendKeys(chromedp.CSS("#pane-bob [data-role=text]"), "from the second\r"))
	page.shows("ann", "bob", "from the second")
	page.clean()
}

// tab is a page in Chromium.
type tab struct {
	t       *testing.T
	ctx     context.Context
	console iter.Seq2[chromedp.ConsoleMessage, error]
}

func openPage(t *testing.T, url string) *tab {
	t.Helper()
	path := os.Getenv("FAIRLEAD_CHROMIUM")
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil && path == "" {
			path = found
		}
	}
	if path == "" {
		t.Fatal("no Chromium: apt-get install chromium, or name it in FAIRLEAD_CHROMIUM")
	}
	profile, err := os.MkdirTemp("", "fairlead-chromium-")
	must(t, err)
	t.Cleanup(func() { // its children may still write for a moment
		eventually(t, "the browser's profile is gone", func() (any, bool) { err := os.RemoveAll(profile); return err, err == nil })
	})
	allocator, stop := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(profile), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
	)...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	must(t, chromedp.Do(ctx)) // starts the browser, for as long as ctx lives
	page := &tab{t: t, ctx: ctx, console: chromedp.Console(ctx)}
	page.do(chromedp.Navigate(url))
	return page
}

// do runs steps with a deadline.
func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.t.Fatalf("the page: %v\n%s", err, p.text())
	}
}

// until waits until an expression is true in the page.
func (p *tab) until(expression string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if _, err := chromedp.Run(ctx, chromedp.Poll[bool](expression)); err != nil {
		p.t.Fatalf("never in the page: %s: %v\n%s", expression, err, p.text())
	}
}

// shows waits until a pane shows a message.
func (p *tab) shows(pane, from, text string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`[...document.querySelectorAll("#pane-%s [data-role=message][data-from=%s] [data-role=body]")].filter((m) => m.textContent === %q).length === 1`, pane, from, text))
}

func (p *tab) count(expression string) int {
	p.t.Helper()
	n, err := chromedp.Run(p.ctx, chromedp.Evaluate[int](expression))
	must(p.t, err)
	return n
}

// text is what the page shows, for failures.
func (p *tab) text() string {
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText`))
	if err != nil {
		return err.Error()
	}
	return text
}

// clean fails the test if the page shows a problem, or has thrown or complained
// of something. It is the last use of the page.
func (p *tab) clean() {
	p.t.Helper()
	shown, err := chromedp.Run(p.ctx, chromedp.Evaluate[[]string](`[...document.querySelectorAll("[data-role=problem]:not([hidden])")].map((e) => e.textContent)`))
	must(p.t, err)
	if len(shown) > 0 {
		p.t.Errorf("the page shows %q", shown)
	}
	const end = "the end of the test"
	_, err = chromedp.Run(p.ctx, chromedp.Evaluate[bool](`console.log("`+end+`"), true`))
	must(p.t, err)
	for m, err := range p.console {
		must(p.t, err)
		switch m.Type {
		case chromedp.ConsoleError, chromedp.ConsoleException, chromedp.ConsoleWarning:
			p.t.Errorf("the page's console: %s", m)
		}
		if m.Text == end {
			return
		}
	}
	p.t.Error("the page's console ended")
}

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
