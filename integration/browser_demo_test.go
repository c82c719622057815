//go:build browser && unix

package integration

import (
	"testing"

	"github.com/chromedp/chromedp"
)

// Behind a load balancer the page does what it does in dev, says which commands kill
// gateways in place of a button that does, and what a terminal needs there.
func TestBrowserDemoBesideAStack(t *testing.T) {
	d, _ := demoStack(t)
	page := openPage(t, d.url+"/demo")
	page.sees("ann", "bob")
	page.until(`document.querySelector("#pane-bob [data-role=kill]").hidden`)
	page.until(`document.querySelector("[data-cmd=terminal]").textContent === "nats context select x"`)
	page.until(`document.querySelector("[data-cmd=terminal]").checkVisibility() && document.querySelector("[data-cmd=kill-gateways]").checkVisibility()`)
	page.until(`[...document.querySelectorAll("[data-role=second]")].map((hint) => hint.hidden).join() === "true,true,false"`)

	page.do(chromedp.SendKeys(chromedp.CSS("#pane-ann [data-role=text]"), "hello Bob\r"))
	page.shows("bob", "ann", "hello Bob")
	page.do(chromedp.Click(chromedp.CSS("#pane-ann [data-role=seat]")))
	page.until(`document.querySelector("#pane-bob [data-role=seats] .taken")?.dataset.user === "ann"`)

	page.do(chromedp.Click(chromedp.CSS("[data-role=task]")))
	page.until(`document.querySelectorAll("[data-role=task-steps] .done").length >= 1`)
	page.do(chromedp.Click(chromedp.CSS("[data-role=task-kill]")))
	page.until(`Number(document.querySelector("[data-role=task-attempt]").textContent) >= 2`)
	page.clean()
}
