package replay

import (
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	// replyRoom is what NATS adds to an answer: its protocol line.
	replyRoom = 1 << 10
	// widest is how many times larger text may be in JSON: a control character
	// is six bytes there.
	widest = 6
	// frameBytes is more than the names and numbers of a message, or of a page,
	// take.
	frameBytes = 512
)

// fit cuts a page to what one answer of so many bytes holds: payloads grow where
// they are text or bytes in JSON. What was cut follows as more. A message that
// fits into no answer is a RESOURCE_EXHAUSTED that names it.
func fit(page *wire.ReplayPage, most int64) (*wire.ReplayPage, error) {
	most -= replyRoom
	atMost := int64(frameBytes)
	for i := range page.Messages {
		m := &page.Messages[i]
		atMost += frameBytes + widest*int64(len(m.Payload)+len(m.Event)+len(m.User)+len(m.Exclude))
	}
	if atMost <= most {
		return page, nil
	}
	cut := *page
	cut.Messages = nil
	cut.More = true
	size := int64(len(cut.AppendJSON(nil)))
	var one []byte
	for i := range page.Messages {
		alone := wire.ReplayPage{Messages: page.Messages[i : i+1]}
		one = alone.AppendJSON(one[:0])
		if size += int64(len(one)); size <= most {
			continue
		}
		if i == 0 {
			m := &page.Messages[0]
			return nil, (&wire.Error{Code: wire.ResourceExhausted, Message: "the next message is larger than an answer of NATS can be", RetryAfter: wire.Never}).
				With("seq", m.Seq).With("observed", len(m.Payload)).With("limit", most)
		}
		cut.Messages = page.Messages[:i]
		return &cut, nil
	}
	return page, nil
}
