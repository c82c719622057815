//go:build browser

package integration

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// shortLeave is the room of the demo with a leave delay that a test can wait
// for, and its table.
const shortLeave = `
topics:
  - {match: "chat.>", subscribe: any, publish: any, from: true, replay: {ttl: 1h}, presence: {leaveDelay: 3s}}
groups:
  - {match: "table:1", join: any, maxMembers: 3}
`

// Two pages see each other, and what each says of itself; one that is reloaded
// is never missed, one that is closed goes when the rule's delay is over.
func TestBrowserPagesSeeEachOther(t *testing.T) {
	g, _ := startDev(t, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, shortLeave))
	ann := openPage(t, g.http("/demo?user=ann"))
	bob := ann.open(g.http("/demo?user=bob"))
	for _, page := range []*tab{ann, bob} {
		page.sees("ann", "bob")
		page.until(`document.querySelector("[data-role=here]").textContent === "2"`)
	}
	ann.until(`document.querySelector("[data-role=member][data-user=bob] .name").textContent === "Bob"`)
	ann.until(`document.querySelectorAll(".me").length === 1 && document.querySelector(".me").dataset.user === "ann"`)

	bob.do(chromedp.SendKeys(chromedp.CSS("[data-role=text]"), "so"))
	ann.until(status("bob", "typing"))
	ann.until(status("bob", "")) // after a while without a key
	bob.do(chromedp.Click(chromedp.CSS("[data-role=away]")))
	ann.until(status("bob", "away"))

	ann.record()
	bob.do(chromedp.Navigate(g.http("/demo?user=bob")))
	bob.sees("ann", "bob")
	ann.until(status("bob", "")) // the new page knows of no absence
	if got, want := ann.gone(), 0; got != want {
		t.Errorf("%d avatars went when Bob's page was loaded again, want %d", got, want)
	}

	bob.clean()
	bob.close()
	ann.sees("ann")
	ann.clean()
}

// What a member says of itself is text, whatever it looks like.
func TestBrowserMembersAreText(t *testing.T) {
	g, _ := startDev(t)
	const user = `<b onclick=x>&"'`
	ann := openPage(t, g.http("/demo?user=ann"))
	ann.sees("ann")
	ann.count(`(import("/fairlead.js").then(({ connect }) => {
		window.other = connect("/ws", { token: () => fetch("/demo/token?user=" + encodeURIComponent(` + strconv.Quote(user) + `)).then((r) => r.text()) });
		return other.topic("chat.lobby").presence.join({ status: "<i>at</i> \u202e", seated: true });
	}), 1)`)
	ann.until(fmt.Sprintf(`[...document.querySelectorAll("[data-role=member]")].some((m) => m.querySelector(".name").textContent === %[1]q && m.dataset.user === %[1]q)`, user))
	ann.until(`[...document.querySelectorAll("[data-role=member] small")].some((m) => m.textContent === "<i>at</i> \u202e")`)
	ann.until(fmt.Sprintf(`document.querySelector("[data-role=seats] .taken").textContent.includes(%q)`, user))
	if n := ann.count(`document.querySelectorAll(".here ul b, .here ul i, .table li b").length`); n != 0 {
		t.Errorf("%d elements came from what a member says of itself, want none", n)
	}
	ann.count(`(other.close(), 1)`)
	ann.sees("ann") // closed on purpose: at once
	ann.clean()
}

// A table has three seats: the fourth hears that it is full, sees when a seat is
// free, and takes it.
func TestBrowserATableWithThreeSeats(t *testing.T) {
	g, natsURL := startDev(t)
	pages := map[string]*tab{"ann": openPage(t, g.http("/demo?user=ann"))}
	for _, user := range []string{"bob", "cem", "dan"} {
		pages[user] = pages["ann"].open(g.http("/demo?user=" + user))
	}
	for _, page := range pages {
		page.sees("ann", "bob", "cem", "dan")
	}
	for _, user := range []string{"ann", "bob", "cem"} {
		pages[user].do(chromedp.Click(chromedp.CSS("[data-role=seat]")))
		pages[user].until(`document.querySelector("[data-role=seat]").textContent === "Stand up"`)
	}
	for _, page := range pages { // members by the group, Dan by what they say
		page.until(seated("ann", "bob", "cem"))
	}
	dan := pages["dan"]
	says := func(text string) string {
		return fmt.Sprintf(`document.querySelector("[data-role=table-says]").textContent.startsWith(%q)`, text)
	}
	dan.do(chromedp.Click(chromedp.CSS("[data-role=seat]")))
	dan.until(says("The table is full."))

	commands := pages["ann"].commands()
	pages["cem"].do(chromedp.Click(chromedp.CSS("[data-role=knock]")))
	for _, user := range []string{"ann", "bob", "cem"} {
		pages[user].until(says("Cem knocks."))
	}
	if got, want := commands["knock"].run(t, connect(t, natsURL)), "{}"; got != want {
		t.Errorf("%s: got %s, want %s", commands["knock"], got, want)
	}
	pages["bob"].until(says("A worker knocks."))
	dan.until(says("The table is full.")) // who stands hears nothing

	pages["bob"].do(chromedp.Click(chromedp.CSS("[data-role=seat]")))
	dan.until(says("A seat is free."))
	for _, page := range pages {
		page.until(seated("ann", "cem"))
	}
	dan.do(chromedp.Click(chromedp.CSS("[data-role=seat]")))
	for _, page := range pages {
		page.until(seated("ann", "cem", "dan"))
	}
	for _, page := range pages {
		page.clean()
	}
}

// The gateway under Bob is killed, again and again, and his connection is cut.
// Neither he nor anybody else sees a user less for a moment, and his seat is his.
func TestBrowserNobodyFlickersWhenAGatewayIsKilled(t *testing.T) {
	g, _ := startDev(t, "FAIRLEAD_GATEWAY_LEASE=3s")
	page := openPage(t, g.http("/demo"))
	other := page.open(g.http("/demo?user=cem"))
	page.sees("ann", "bob", "cem")
	other.sees("ann", "bob", "cem")
	page.do(chromedp.Click(chromedp.CSS("#pane-bob [data-role=seat]")))
	other.until(seated("bob"))
	page.record()
	other.record()
	const conn = `document.querySelector("#pane-bob [data-role=gateway]").textContent`
	for _, end := range []string{"drop", "kill", "kill", "kill"} {
		before, err := chromedp.Run(page.ctx, chromedp.Evaluate[string](conn))
		must(t, err)
		page.do(chromedp.Click(chromedp.CSS("#pane-bob [data-role=" + end + "]")))
		page.until(conn + `.includes("bob") && ` + conn + " !== " + strconv.Quote(before))
	}
	// What he says afterwards is heard. His seat is his again when those of the
	// gateways that died are free: there are three.
	page.do(chromedp.Click(chromedp.CSS("#pane-bob [data-role=away]")))
	other.until(status("bob", "away"))
	page.until(`!document.querySelector("#pane-bob [data-role=knock]").disabled`)
	page.do(chromedp.Click(chromedp.CSS("#pane-bob [data-role=knock]")))
	page.until(`document.querySelector("#pane-bob [data-role=table-says]").textContent === "Bob knocks."`)
	for name, p := range map[string]*tab{"Ann's and Bob's page": page, "Cem's page": other} {
		if got, want := p.gone(), 0; got != want {
			t.Errorf("%d avatars went from %s, want %d", got, name, want)
		}
	}
	other.until(seated("bob"))
	page.clean()
	other.clean()
}

// Where the rules have no presence the page says so, and the conversation works.
func TestBrowserWithoutPresenceThePageStillTalks(t *testing.T) {
	g, _ := startDev(t, "FAIRLEAD_TOPICS_FILE="+rulesFile(t, openRules))
	ann := openPage(t, g.http("/demo?user=ann"))
	ann.until(`!document.querySelector("[data-role=problem]").hidden`)
	ann.do(chromedp.SendKeys(chromedp.CSS("[data-role=text]"), "anybody?\r"))
	ann.shows("ann", "ann", "anybody?")
	if n := ann.count(`document.querySelectorAll("[data-role=member]").length`); n != 0 {
		t.Errorf("the page shows %d members, want none", n)
	}
}

// open opens another page in the same browser.
func (p *tab) open(url string) *tab {
	p.t.Helper()
	ctx, cancel := chromedp.NewContext(p.ctx)
	p.t.Cleanup(cancel)
	must(p.t, chromedp.Do(ctx)) // makes the tab, for as long as ctx lives
	page := &tab{t: p.t, ctx: ctx, console: chromedp.Console(ctx), close: cancel}
	page.do(chromedp.Navigate(url))
	return page
}

// sees waits until every pane of the page shows these users and nobody else.
func (p *tab) sees(users ...string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`[...document.querySelectorAll(".pane")].every((pane) =>
		[...pane.querySelectorAll("[data-role=member]")].map((m) => m.dataset.user).sort().join() === %q)`, strings.Join(users, ",")))
}

// record begins to count the avatars that are taken away on the page.
func (p *tab) record() {
	p.t.Helper()
	p.count(`(() => {
		window.gone = 0;
		const watch = new MutationObserver((changes) => changes.forEach((c) => (window.gone += c.removedNodes.length)));
		document.querySelectorAll("[data-role=members]").forEach((list) => watch.observe(list, { childList: true }));
		return 1;
	})()`)
}

// gone is how many avatars were taken away since record, if only for a moment.
func (p *tab) gone() int {
	p.t.Helper()
	return p.count(`window.gone`)
}

// status is whether a page shows what a user says of itself.
func status(user, text string) string {
	return fmt.Sprintf(`document.querySelector("[data-role=member][data-user=%s] small")?.textContent === %q`, user, text)
}

// seated is whether every pane of a page shows these users at the table and
// nobody else.
func seated(users ...string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("[data-role=seats]")].every((seats) => seats.children.length === 3 &&
		[...seats.querySelectorAll(".taken")].map((s) => s.dataset.user).sort().join() === %q)`, strings.Join(users, ","))
}
