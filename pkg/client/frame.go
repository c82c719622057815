package client

import (
	"strconv"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// frame builds one client frame by appending, so that payloads are sent byte
// for byte (encoding/json would compact them).
type frame struct{ b []byte }

// newFrame begins a frame; id 0 leaves the id out.
func newFrame(op string, id int64) *frame {
	f := &frame{b: make([]byte, 0, 128)}
	f.b = append(f.b, `{"op":`...)
	f.b = wire.AppendString(f.b, op)
	if id != 0 {
		f.int("id", id)
	}
	return f
}

func (f *frame) key(name string) {
	f.b = append(f.b, `,"`...)
	f.b = append(f.b, name...)
	f.b = append(f.b, `":`...)
}

func (f *frame) str(name, value string) {
	f.key(name)
	f.b = wire.AppendString(f.b, value)
}

// optional is str that leaves an empty value out.
func (f *frame) optional(name, value string) {
	if value != "" {
		f.str(name, value)
	}
}

func (f *frame) int(name string, n int64) {
	f.key(name)
	f.b = strconv.AppendInt(f.b, n, 10)
}

func (f *frame) bool(name string, v bool) {
	f.key(name)
	f.b = strconv.AppendBool(f.b, v)
}

func (f *frame) raw(name string, data []byte) {
	f.key(name)
	f.b = append(f.b, data...)
}

func (f *frame) end() []byte { return append(f.b, '}') }
