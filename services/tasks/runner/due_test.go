package runner

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// logged is what a replica has logged.
type logged struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

// A replica that can't find what is due says so, once.
func TestWhoDoesNotSeeWhatIsDueSaysSo(t *testing.T) {
	r := newRig(t)
	var said logged
	p := r.replica(func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&said, nil)) })
	fail := func(err error) {
		p.tap.on(func(call string) error {
			if call == "Due" {
				return err
			}
			return nil
		})
		before := p.tap.count("Due")
		eventually(t, "some looks", func() bool { return p.tap.count("Due") >= before+3 })
	}
	fail(wire.ErrUnavailable) // the breaker says it
	if n := said.count("what is due is not found"); n != 0 {
		t.Errorf("said %d times while the store is away, want not at all", n)
	}
	fail(errors.New("cannot subtract infinite timestamps"))
	if n := said.count("cannot subtract infinite timestamps"); n != 1 {
		t.Errorf("said %d times, want once", n)
	}
	p.tap.on(nil)
	eventually(t, "it to be over", func() bool { return said.count("what is due is found again") == 1 })
}
