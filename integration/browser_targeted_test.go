//go:build browser

package integration

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/nats-io/nats.go"
)

// Where Ann has the mouse Bob sees, under her name, until she takes it away;
// what somebody else says of its pointer is text, or nothing.
func TestBrowserPanesSeeEachOthersCursors(t *testing.T) {
	g, _ := startDev(t)
	page := openPage(t, g.http("/demo"))
	page.sees("ann", "bob")
	other := page.open(g.http("/demo?user=cem"))
	other.sees("ann", "bob", "cem")

	page.point("ann", 0.25, 0.5)
	for p, pane := range map[*tab]string{page: "bob", other: "cem"} {
		p.until(pointsTo(pane, "ann", "Ann", 0.25, 0.5))
	}
	page.point("ann", 0.75, 0.5)
	for p, pane := range map[*tab]string{page: "bob", other: "cem"} {
		p.until(pointsTo(pane, "ann", "Ann", 0.75, 0.5))
	}
	if n := page.count(`document.querySelectorAll("#pane-ann [data-role=pointer][data-user=ann]").length`); n != 0 {
		t.Errorf("Ann sees %d pointers of her own, want none", n)
	}
	page.count(`(document.querySelector("#pane-ann [data-role=stage]").dispatchEvent(new PointerEvent("pointerleave")), 1)`)
	for p, pane := range map[*tab]string{page: "bob", other: "cem"} {
		p.until(fmt.Sprintf(`!document.querySelector("#pane-%s [data-role=pointer]")`, pane))
	}

	const user = `<b onclick=x>&"'`
	page.count(`(import("/fairlead.js").then(({ connect }) => {
		window.other = connect("/ws", { token: () => fetch("/demo/token?user=" + encodeURIComponent(` + strconv.Quote(user) + `)).then((r) => r.text()) });
		const board = other.topic("doc.board");
		board.on("$subscribed", () => board.cursor.move({ x: 0.1, y: 0.2 }));
	}), 1)`)
	page.until(fmt.Sprintf(`[...document.querySelectorAll("#pane-bob [data-role=pointer]")].some((p) => p.textContent === %q)`, user))
	page.count(`(other.topic("doc.board").cursor.move({ x: "10px; background: red", y: 7 }), 1)`)
	other.point("cem", 0.5, 0.5)
	page.until(pointsTo("bob", "cem", "Cem", 0.5, 0.5))
	if n := page.count(`document.querySelectorAll(".pointers b").length`); n != 0 {
		t.Errorf("%d elements came from a user's name, want none", n)
	}
	page.count(`(other.close(), 1)`)
	page.clean()
	other.clean()
}

// Ann's click asks Bob, whose click is the answer; so does the command.
func TestBrowserBobIsAskedAndAnswers(t *testing.T) {
	g, natsURL := startDev(t)
	page := openPage(t, g.http("/demo"))
	page.sees("ann", "bob")
	const asked = `!document.querySelector("#pane-bob [data-role=confirm]").hidden && document.querySelector("#pane-bob [data-role=confirm-question]").textContent === `
	for _, answer := range []string{"yes", "no"} {
		page.do(chromedp.Click(chromedp.CSS("[data-role=ask]")))
		page.until(asked + `"ann asks: Deploy now?"`)
		page.do(chromedp.Click(chromedp.CSS("#pane-bob [data-confirm=" + answer + "]")))
		page.until(fmt.Sprintf(`document.querySelector("[data-role=ask-result]").textContent.includes('{"answer":"%s"}')`, answer))
		page.until(`document.querySelector("#pane-bob [data-role=confirm]").hidden`)
	}

	reply := make(chan string, 1)
	go func() { reply <- page.commands()["ask"].run(t, connect(t, natsURL)) }()
	page.until(asked + `"Deploy now?"`)
	page.do(chromedp.Click(chromedp.CSS("#pane-bob [data-confirm=yes]")))
	if got, want := receive(t, reply), `{"answer":"yes"}`; got != want {
		t.Errorf("the command gets %s, want %s", got, want)
	}

	// What is asked is text.
	worker := connect(t, natsURL)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, _ = worker.RequestMsgWithContext(ctx, &nats.Msg{Subject: "fl.ask.bob", Header: nats.Header{"Fl-Event": {"confirm"}}, Data: []byte(`{"question":"<i>Really?</i>"}`)})
	}()
	page.until(asked + `"<i>Really?</i>"`)
	page.do(chromedp.Click(chromedp.CSS("#pane-bob [data-confirm=no]")))
	page.clean()
}

// Who is kicked hears why, stays away, and comes back when its user wants to.
func TestBrowserAKickedUserStaysAwayUntilItWantsBack(t *testing.T) {
	g, natsURL := startDev(t)
	page := openPage(t, g.http("/demo"))
	page.sees("ann", "bob")
	state := func(pane, want string) string {
		return fmt.Sprintf(`document.querySelector("#pane-%s [data-role=state]").dataset.state === %q`, pane, want)
	}
	problem := func(want string) string {
		return fmt.Sprintf(`document.querySelector("#pane-bob [data-role=problem]").textContent === %q`, want)
	}
	kick := page.commands()["kick"]
	for _, by := range []struct {
		how  string
		do   func()
		says string
	}{
		{"the button", func() { page.do(chromedp.Click(chromedp.CSS("[data-role=kick]"))) }, "PERMISSION_DENIED: kicked by ann"},
		{"the command", func() { kick.run(t, connect(t, natsURL)) }, "PERMISSION_DENIED: enough"},
	} {
		by.do()
		page.until(state("bob", "failed"))
		page.until(problem(by.says))
		page.until(`!document.querySelector("#pane-bob [data-role=again]").hidden`)
		page.until(state("ann", "open"))
		page.do(chromedp.Click(chromedp.CSS("#pane-bob [data-role=again] button")))
		page.until(state("bob", "open"))
		page.until(`document.querySelector("#pane-bob [data-role=again]").hidden`)
		page.sees("ann", "bob")
	}
	page.until(`document.querySelector("[data-role=kick-result]").textContent.startsWith("Closed: 1 connection ")`)
	page.do(chromedp.SendKeys(chromedp.CSS("#pane-bob [data-role=text]"), "back\r"))
	page.shows("ann", "bob", "back")
	page.clean()
}

// point moves the mouse to a place of a pane, in parts of its box.
func (p *tab) point(pane string, x, y float64) {
	p.t.Helper()
	p.count(fmt.Sprintf(`(() => {
		const stage = document.querySelector("#pane-%s [data-role=stage]"), box = stage.getBoundingClientRect();
		stage.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width * %v, clientY: box.top + box.height * %v }));
		return 1;
	})()`, pane, x, y))
}

// pointsTo is whether a pane shows a user's pointer with a name at a place.
func pointsTo(pane, user, name string, x, y float64) string {
	return fmt.Sprintf(`((p) => p?.textContent === %q && Math.abs(p.style.getPropertyValue("--x") - %v) < 0.01 && Math.abs(p.style.getPropertyValue("--y") - %v) < 0.01)(
		document.querySelector("#pane-%s [data-role=pointer][data-user=%s]"))`, name, x, y, pane, user)
}
