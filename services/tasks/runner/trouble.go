package runner

import "time"

const (
	// wellFor is for how long nothing must have failed before it is said that writes
	// succeed again: one that can't be written fails between others that can.
	wellFor = 2 * retryMost
	// tellEvery bounds how often it is said that they fail otherwise than before.
	tellEvery = time.Second
)

// trouble is what is known of writes that fail, so that it is said when that begins
// and ends, and not each time. Times are arguments.
type trouble struct {
	text   string // of the error that was told last; "": they succeed
	told   time.Time
	failed time.Time // the last time
}

// note takes in what became of a write: began is that it fails as was not said yet,
// over that writes succeed again.
func (t *trouble) note(err error, now time.Time) (began, over bool) {
	if err == nil {
		if t.text != "" && now.Sub(t.failed) >= wellFor {
			t.text = ""
			return false, true
		}
		return false, false
	}
	text := err.Error()
	t.failed = now
	if text == t.text || t.text != "" && now.Sub(t.told) < tellEvery {
		return false, false
	}
	t.text, t.told = text, now
	return true, false
}
