package runner

import (
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// hear takes what a worker said, of an attempt of this replica's or of another's.
func (r *Runner) hear(s said) {
	if s.end {
		r.concludes(s)
		return
	}
	if r.beat(s) {
		return
	}
	if !r.looks.add(&look{said: s}) {
		r.answer(s.from, errTooMany)
	}
}

// beat notes a sign of life; false: it is for somebody else to note. A replica that
// can't rely on its lease does not keep it for itself: the attempt may have been
// adopted by now.
func (r *Runner) beat(s said) bool {
	a, owner, first := r.table.beat(s.id, s.fence, s.sign, time.Now())
	if a == nil {
		return false
	}
	if first {
		r.claimFor(a.Name, r.lanes.heard(a.Name, false))
		if a.probe {
			r.tellRunning(a)
		}
	}
	if s.sign.lease > 0 {
		r.sooner()
	}
	r.board.note(a, s.sign, time.Now())
	if !r.owner.holds(owner, time.Now()) {
		return false
	}
	r.answer(s.from, nil)
	return true
}

// bounced notes that nobody took an attempt. It waits, unharmed.
func (r *Runner) bounced(s said) {
	a := r.table.end(s.id, s.fence)
	if a == nil {
		return
	}
	r.metrics.unserved.Add(1)
	r.lanes.bounced(a.Name, time.Now())
	r.queueBack(&ending{a: a, back: store.Back{Ref: store.Ref{ID: a.ID, Fence: a.Fence}, Unstarted: true}})
}

// pass hands a sign of life to whichever replica has the attempt.
func (r *Runner) pass(s said) {
	token := r.tokens.Load().of(s.id, s.fence)
	header := nats.Header{}
	header.Set(headerVia, r.cfg.ID)
	s.sign.write(header)
	for _, replica := range r.live.others(time.Now()) {
		r.publish(&nats.Msg{Subject: r.ns.TaskReply(replica, s.id, s.fence, token), Header: header, Data: s.sign.progress})
	}
}
