//go:build browser

package integration

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/chromedp/chromedp"
)

// The demo page kills the gateway process under a pane, again and again, while
// Ann and a worker talk: the pane comes back by itself, and nothing is missing
// or comes twice.
func TestBrowserKillTheGatewayUnderAPane(t *testing.T) {
	g, natsURL := startDev(t)
	page := openPage(t, g.http("/demo"))
	worker := connect(t, natsURL)
	for _, pane := range []string{"ann", "bob"} {
		page.until(`document.querySelector("#pane-` + pane + ` [data-role=state]").dataset.state === "open"`)
	}
	const (
		heard = `Number(document.querySelector("#pane-%s [data-role=heard]").textContent)`
		conn  = `document.querySelector("#pane-bob [data-role=gateway]").textContent`
	)
	heardBy := func(pane string) string { return fmt.Sprintf(heard, pane) }
	page.do(chromedp.Click(chromedp.CSS("[data-role=tick]")))
	said := 0
	for range 3 {
		n := page.count(heardBy("bob"))
		page.until(heardBy("bob") + " > " + strconv.Itoa(n+20))
		before, err := chromedp.Run(page.ctx, chromedp.Evaluate[string](conn))
		must(t, err)
		page.do(chromedp.Click(chromedp.CSS("#pane-bob [data-role=kill]")))
		for range 50 { // plain messages, while nobody serves Bob
			must(t, worker.Publish("fl.topic.chat.lobby", []byte(`{"text":"plain"}`)))
			said++
		}
		must(t, worker.Flush())
		page.until(conn + ".includes(\"bob\") && " + conn + " !== " + strconv.Quote(before))
	}
	page.do(chromedp.Click(chromedp.CSS("[data-role=tick]")))
	must(t, worker.Publish("fl.topic.chat.lobby", []byte(`{"text":"the end"}`)))
	said++
	for _, pane := range []string{"ann", "bob"} {
		page.shows(pane, "worker", "the end")
	}
	page.until(heardBy("bob") + " === " + heardBy("ann"))
	ticks := page.count(heardBy("ann")) - said
	if ticks < 30 {
		t.Errorf("Ann said %d numbers, want more: the test has not tested much", ticks)
	}
	for _, pane := range []string{"ann", "bob"} {
		for _, what := range []string{"gaps", "repeats"} {
			if got, want := page.count(`Number(document.querySelector("#pane-`+pane+` [data-role=`+what+`]").textContent)`), 0; got != want {
				t.Errorf("%s has %d %s, want %d", pane, got, what, want)
			}
		}
	}
	page.clean()
}

// A page that is loaded again goes on where it was: what came while it was away
// comes first, once.
func TestBrowserAReloadedPageMissesNothing(t *testing.T) {
	g, natsURL := startDev(t)
	worker := connect(t, natsURL)
	topic := unique("chat.reload")
	n := 0
	tell := func() {
		for range 10 {
			must(t, worker.Publish("fl.topic."+topic, []byte(strconv.Itoa(n))))
			n++
		}
		must(t, worker.Flush())
	}
	for _, persist := range []string{"session", "local"} {
		t.Run(persist, func(t *testing.T) {
			page := openPage(t, g.http("/demo"))
			load := func() {
				t.Helper()
				page.count(`(import("/fairlead.js").then(({ connect }) => {
					window.got = [];
					const room = connect(undefined, { persist: "` + persist + `" }).topic("` + topic + `");
					room.on("$subscribed", (s) => window.subscribed = s);
					room.on("message", (m) => got.push(m.data));
				}), 1)`)
				page.until(`!!window.subscribed`)
			}
			load()
			first := n
			tell()
			page.until(fmt.Sprintf(`got.join() === "%s"`, joinedNumbers(first, n)))
			for range 2 {
				page.do(chromedp.Navigate("about:blank"))
				first = n
				tell()
				page.do(chromedp.Navigate(g.http("/demo")))
				load()
				tell()
				page.until(fmt.Sprintf(`got.length >= %d`, n-first))
				page.until(fmt.Sprintf(`subscribed.recovered && got.join() === "%s"`, joinedNumbers(first, n)))
			}
			page.clean()
		})
	}
}

// joinedNumbers are those from one to before another, as JavaScript joins them.
func joinedNumbers(from, to int) string {
	text := ""
	for i := from; i < to; i++ {
		if i > from {
			text += ","
		}
		text += strconv.Itoa(i)
	}
	return text
}
