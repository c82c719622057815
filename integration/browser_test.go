//go:build browser

package integration

import (
	"context"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
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
	close   func() // also at the end of the test
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
	page := &tab{t: t, ctx: ctx, console: chromedp.Console(ctx), close: cancel}
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
