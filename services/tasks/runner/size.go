package runner

import "github.com/fairlead-io/fairlead/pkg/wire"

// Sizes are about how many bytes something holds in memory, and carries when it is
// written: what is small on every row is left out.

func (in *insertion) size() int { return len(in.task.Input) + len(in.task.Metadata) }

func (x *ending) size() int {
	return max(len(x.end.Result)+errorSize(x.end.Error)+errorSize(x.back.Error), x.from.size())
}

func (x *look) size() int { return x.said.size() }

func (s *said) size() int { return max(len(s.result)+errorSize(s.err), s.from.size()) }

// size is that of the message, which is there as long as its sender is not answered.
func (o origin) size() int {
	if o.msg == nil {
		return 0
	}
	return o.msg.Size()
}

func errorSize(e *wire.TaskError) int {
	if e == nil {
		return 0
	}
	return len(e.Message) + len(e.Details)
}

// readSize is taken for the size of a task: it is only known when it was read.
const readSize = 32 << 10

func (x *reading) size() int {
	if x.whole {
		return readSize
	}
	return readSize / 8
}
