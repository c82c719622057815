package compose

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	reportBegin = "<!-- The table below is written by `go test -tags compose ./integration/compose -args -report`. -->\n"
	reportEnd   = "<!-- End of the table. -->\n"
)

// table is the outcomes as the documentation shows them.
func table(all []outcome) string {
	var b strings.Builder
	b.WriteString("| what was done | all right again after | slowest | acknowledged publishes | in the worst second | longest wait for one | lost | twice | seen to leave | tasks ended | committed twice | above a limit |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, o := range all {
		part, after := o.slowest()
		fmt.Fprintf(&b, "| %s | %s | %s | %d in %s | %d | %s | %d | %d | %d | %d | %d | %d |\n",
			o.what, seconds(after), part, o.acks, seconds(o.lasted), o.fewest(), seconds(o.longest), o.lost, o.twice, o.left, o.tasks, o.tasksTwice, o.over)
	}
	return b.String()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// insert puts a text between the marks of a page.
func insert(page, text string) (string, error) {
	begin := strings.Index(page, reportBegin)
	end := strings.Index(page, reportEnd)
	if begin < 0 || end < begin {
		return "", fmt.Errorf("the page lacks %q and %q", reportBegin, reportEnd)
	}
	return page[:begin+len(reportBegin)] + "\n" + text + "\n" + page[end:], nil
}

// write puts the table into a page on the disk.
func write(path string, all []outcome) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text, err := insert(string(page), table(all))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

func TestTheReport(t *testing.T) {
	t.Parallel()
	o := outcome{
		what: "kill", lasted: 2 * time.Second, acks: 150, bySecond: []int{90, 60}, longest: 300 * time.Millisecond, left: 1, tasks: 9,
		after: map[string]time.Duration{"tasks": time.Second, "presence": 1500 * time.Millisecond, "messages": 0},
	}
	path := t.TempDir() + "/page.md"
	if err := os.WriteFile(path, []byte("a\n"+reportBegin+"old\n"+reportEnd+"z\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := write(path, []outcome{o}); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(string(page), "\n")
	want := "| kill | 1.5 s | presence | 150 in 2.0 s | 60 | 0.3 s | 0 | 0 | 1 | 9 | 0 | 0 |"
	if !slices.Contains(got, want) || got[0] != "a" || got[len(got)-2] != "z" || slices.Contains(got, "old") {
		t.Errorf("got %q, want %q in place of the old", got, want)
	}
	if err := write(path, []outcome{o, o}); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if _, err := insert("nothing", "x"); err == nil {
		t.Error("a page without marks: got no error")
	}
}
