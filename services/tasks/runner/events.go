package runner

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

// mostShown is the largest result that who watches a task is sent with its end.
const mostShown = 64 << 10

// publish publishes a hint: one that is lost is found out otherwise.
func (r *Runner) publish(msg *nats.Msg) {
	if err := r.peers.PublishMsg(msg); err != nil && !bus.Away(err) {
		r.metrics.publishErrors.Add(1)
	}
}

// tellRunning tells who watches a task, and who hears of all, that an attempt of it
// runs.
func (r *Runner) tellRunning(a *attempt) {
	m := messages.Get().(*message)
	defer messages.Put(m)
	r.tellTopic(m, a, wire.TaskRunning, nil, nil)
	r.tellEvent(m, a, wire.TaskRunning, "")
}

// tellTopic publishes a state of a task to its topic.
func (r *Runner) tellTopic(m *message, a *attempt, state wire.TaskState, result []byte, e *wire.TaskError) {
	m.state(a, state)
	switch {
	case e != nil:
		if text, err := json.Marshal(e); err == nil {
			m.body = append(append(m.body, `,"error":`...), text...)
		}
	case len(result) > 0 && len(result) <= mostShown:
		m.body = append(append(m.body, `,"result":`...), result...)
	}
	r.toTopic(m, a, string(state))
}

// tellProgress publishes progress to the task's topic.
func (r *Runner) tellProgress(a *attempt, progress []byte) {
	m := messages.Get().(*message)
	defer messages.Put(m)
	m.state(a, wire.TaskRunning)
	m.body = append(append(m.body, `,"progress":`...), progress...)
	r.toTopic(m, a, "progress")
}

// state begins the body of an event. Names need no escapes.
func (m *message) state(a *attempt, state wire.TaskState) {
	b := append(append(m.body[:0], `{"id":"`...), a.text...)
	b = append(append(b, `","name":"`...), a.Name...)
	b = append(append(b, `","state":"`...), state...)
	m.body = strconv.AppendInt(append(b, `","attempt":`...), int64(a.Number), 10)
}

func (r *Runner) toTopic(m *message, a *attempt, event string) {
	clear(m.msg.Header)
	m.values[0] = event
	m.msg.Header[wire.HeaderEvent] = m.values[:1:1]
	m.body = append(m.body, '}')
	m.msg.Subject, m.msg.Reply, m.msg.Data = a.topic, "", m.body
	r.publish(&m.msg)
}

// tellEvent publishes a state of a task for who hears of all of them.
func (r *Runner) tellEvent(m *message, a *attempt, state wire.TaskState, code wire.Code) {
	b := strconv.AppendInt(append(m.body[:0], `{"at":`...), time.Now().UnixMilli(), 10)
	b = append(append(b, `,"id":"`...), a.text...)
	b = append(append(b, `","name":"`...), a.Name...)
	b = strconv.AppendInt(append(b, `","attempt":`...), int64(a.Number), 10)
	if code != "" {
		b = append(append(append(b, `,"code":"`...), code...), '"')
	}
	m.body = append(b, '}')
	clear(m.msg.Header)
	m.msg.Subject, m.msg.Reply, m.msg.Data = r.subjects.event(state, a.Name), "", m.body
	r.publish(&m.msg)
}

// tellCancel tells a worker that its attempt is to end, and why.
func (r *Runner) tellCancel(id wire.TaskID, fence int64, reason string) {
	r.publish(&nats.Msg{Subject: r.ns.TaskCancel(id, fence), Data: []byte(`{"reason":"` + reason + `"}`)})
}
