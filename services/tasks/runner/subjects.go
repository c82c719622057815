package runner

import (
	"strings"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// subjects are the beginnings of those that a replica publishes to for every
// attempt, so that each is put together at once.
type subjects struct {
	task, reply, cancel, topic string
	events                     map[wire.TaskState]string
}

func newSubjects(ns wire.Namespace, replica string) subjects {
	var none wire.TaskID
	text := none.String()
	s := subjects{
		task:   strings.TrimSuffix(ns.Task("x"), "x"),
		reply:  strings.TrimSuffix(ns.TaskReply(replica, none, 1, "x"), text+".1.x"),
		cancel: strings.TrimSuffix(ns.TaskCancel(none, 1), text+"-1"),
		events: map[wire.TaskState]string{},
	}
	topic, _ := ns.Topic(wire.TaskTopic(none)) // it is short
	s.topic = strings.TrimSuffix(topic, text)
	for _, state := range []wire.TaskState{
		wire.TaskPending, wire.TaskRunning, wire.TaskCommitted, wire.TaskFailed, wire.TaskCancelled, wire.TaskDead,
	} {
		event, _ := ns.Event("task."+string(state), "x")
		s.events[state] = strings.TrimSuffix(event, "x")
	}
	return s
}

// event is the subject of a state of the tasks of a name.
func (s *subjects) event(state wire.TaskState, name string) string { return s.events[state] + name }
