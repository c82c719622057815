package main

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// barWidth is the length of a progress bar, in characters.
const barWidth = 30

// progressOf says how far a progress is, from 0 to 1, and what it counts, such as
// "9/20": of {"done","total"}, of {"percent"}, and of a number, which is a share up
// to 1 and a percentage above. Any other progress is the worker's own affair.
func progressOf(progress []byte) (share float64, label string, ok bool) {
	var n float64
	if json.Unmarshal(progress, &n) == nil && string(progress) != "null" {
		if n > 1 {
			n /= 100
		}
		return n, "", inRange(n)
	}
	var said struct{ Done, Total, Percent *float64 }
	if json.Unmarshal(progress, &said) != nil {
		return 0, "", false
	}
	switch {
	case said.Done != nil && said.Total != nil && *said.Total > 0:
		share = *said.Done / *said.Total
		return share, number(*said.Done) + "/" + number(*said.Total), inRange(share)
	case said.Percent != nil:
		share = *said.Percent / 100
		return share, "", inRange(share)
	}
	return 0, "", false
}

func inRange(share float64) bool { return share >= 0 && share <= 1 }

func number(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

// percent is a share for people. Only what is complete is 100 %.
func percent(share float64) string {
	return fmt.Sprintf("%d %%", int(math.Floor(share*100+1e-9)))
}

// bar draws a share.
func bar(share float64) string {
	full := int(math.Floor(share*barWidth + 1e-9))
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", barWidth-full) + "]"
}

// statusLine is a task that is followed, on one line of at most so many
// characters.
func statusLine(t *wire.Task, width int) string {
	line := t.Name + "  " + string(t.State)
	if t.Attempt > 1 || t.State == wire.TaskRunning {
		line += ", attempt " + strconv.Itoa(t.Attempt)
	}
	if share, label, ok := progressOf(t.Progress); ok {
		line += "  " + strings.TrimRight(bar(share)+" "+percent(share)+" "+label, " ")
	} else if t.Progress != nil {
		line += "  " + shownJSON(t.Progress)
	}
	if t.State == wire.TaskPending && t.Error != nil {
		line += "  after " + errorOf(t.Error)
	}
	return clipped(line, width)
}
