//go:build browser

package integration

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/chromedp/chromedp"
)

// A flood on a topic with a limit: some of it passes, the rest is refused, and
// the page waits as it is told until it may send again.
func TestBrowserFloodIsRefusedAndRecovers(t *testing.T) {
	g, natsURL := startDev(t)
	page := openPage(t, g.http("/demo"))
	page.sees("ann", "bob")
	worker := connect(t, natsURL)
	heard := listen(t, worker, "fl.topic.demo.limited")
	for round := range 2 {
		page.do(chromedp.Click(chromedp.CSS("[data-role=flood]")))
		page.until(`document.querySelector("[data-role=flood-result]").dataset.state === "open" && !document.querySelector("[data-role=flood]").disabled`)
		count := func(what string) int {
			return page.count(fmt.Sprintf(`Number(document.querySelector("[data-role=flood-%s]").textContent)`, what))
		}
		sent, passed, refused := count("sent"), count("passed"), count("refused")
		// The bucket holds 10; on a slow machine it fills while the flood goes on.
		if sent != 60 || passed+refused != sent || refused == 0 || round == 0 && passed < 10 {
			t.Errorf("round %d: %d sent, %d passed, %d refused", round, sent, passed, refused)
		}
		for what, want := range map[string]int{"passed": passed, "refused": refused} {
			if got := page.count(fmt.Sprintf(`document.querySelectorAll("[data-role=flood-dots] .%s").length`, what)); got != want {
				t.Errorf("round %d: %d dots are %s, want %d", round, got, what, want)
			}
		}
		for range passed + 1 { // and what was sent again passed once
			hear(t, heard)
		}
	}
	must(t, worker.Flush())
	if n, _, err := heard.Pending(); n != 0 || err != nil {
		t.Errorf("%d messages more than passed reached NATS, %v", n, err)
	}

	// The commands of the card do what they say.
	for _, what := range []string{"peek", "consume"} {
		var v struct {
			Allowed *bool
			Limit   int
		}
		if answer := page.commands()[what].run(t, worker); json.Unmarshal([]byte(answer), &v) != nil || v.Allowed == nil || v.Limit != 10 {
			t.Errorf("%s answers %s, want a verdict of the demo's limit", what, answer)
		}
	}
	page.clean()
}
