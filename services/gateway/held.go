package gateway

import (
	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	heldMessages = 4096
	heldBytes    = 4 << 20
)

// waiting is what a trail keeps back while it is being mended: nothing may
// overtake what is missing.
type waiting struct {
	mending bool
	held    []held
	heldAll int           // bytes
	spilled bool          // some of it was dropped: it has to be read again
	begun   chan struct{} // closed when the first look at the log is over
}

// held is a message that came while the trail was being mended.
type held struct {
	msg  *nats.Msg
	at   wire.Position
	prev int64
}

// newWaiting is of a trail that has to be looked for first.
func newWaiting() waiting { return waiting{mending: true, begun: make(chan struct{})} }

// hold keeps a message for when the trail is mended.
func (w *waiting) hold(h held) {
	if len(w.held) >= heldMessages || w.heldAll+len(h.msg.Data) > heldBytes {
		// It will be read with the others; what was held behind it can't be
		// delivered before.
		w.spilled = true
		return
	}
	w.held = append(w.held, h)
	w.heldAll += len(h.msg.Data)
}

// keep holds again what could not be passed on, before what comes later.
func (w *waiting) keep(all []held, spilled bool) {
	for _, h := range all {
		w.held = append(w.held, h)
		w.heldAll += len(h.msg.Data)
	}
	w.spilled = w.spilled || spilled
}

// release takes what was held.
func (w *waiting) release() (all []held, spilled bool) {
	all, spilled = w.held, w.spilled
	w.held, w.heldAll, w.spilled = nil, 0, false
	return all, spilled
}

// finish ends the mending.
func (w *waiting) finish() {
	w.mending = false
	select {
	case <-w.begun:
	default:
		close(w.begun)
	}
}
