//go:build browser

package integration

import (
	"encoding/json"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/fairlead-io/fairlead/internal/pgdev"
)

// The page's task is begun, the process that works on it is killed, and another
// goes on after the last part that is done: the page sees all of it.
func TestBrowserTaskSurvivesItsWorker(t *testing.T) {
	g, natsURL := startDev(t, "FAIRLEAD_POSTGRES_URL="+pgdev.Test(t))
	page := openPage(t, g.http("/demo"))
	page.sees("ann", "bob")
	worker := connect(t, natsURL)

	const done = `document.querySelectorAll("[data-role=task-steps] .done").length`
	page.do(chromedp.Click(chromedp.CSS("[data-role=task]")))
	page.until(`document.querySelector("[data-role=task-attempt]").textContent === "1"`)
	page.until(done + ` >= 1`)
	page.do(chromedp.Click(chromedp.CSS("[data-role=task-kill]")))
	before := page.count(done)
	page.until(`Number(document.querySelector("[data-role=task-attempt]").textContent) >= 2`)
	page.until(done + ` >= ` + string(rune('0'+before)))
	page.until(`document.querySelector("[data-role=task-result]").dataset.state === "committed"`)
	if n := page.count(done); n != 5 {
		t.Errorf("%d parts are done, want 5", n)
	}
	if n := page.count(`new Set([...document.querySelectorAll("[data-role=task-steps] .done")].map((e) => e.textContent.split(" · ")[1])).size`); n != 2 {
		t.Errorf("%d workers did the parts, want 2", n)
	}

	// The commands of the card do what they say.
	var counts struct{ Committed, Total int }
	if answer := page.commands()["count-tasks"].run(t, worker); json.Unmarshal([]byte(answer), &counts) != nil || counts.Committed != 1 || counts.Total != 1 {
		t.Errorf("the service counts %s, want one task that is committed", answer)
	}
	page.clean()
}

// Without a database the page says that there are no tasks.
func TestBrowserSaysThatTasksAreOff(t *testing.T) {
	g, _ := startDev(t)
	page := openPage(t, g.http("/demo"))
	page.until(`document.querySelector("[data-role=task-result]").textContent.includes("Tasks are off")`)
	page.until(`document.querySelector("[data-role=task]").disabled`)
	page.clean()
}

func TestNodeWorkerDoesTasks(t *testing.T) {
	t.Parallel()
	doesTasks(t, inNode(t, "tasks.mjs"))
}
