package client

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// A server that wants a newer token gets one at once, and the program is told.
func TestTheServerAsksForAToken(t *testing.T) {
	t.Parallel()
	n := 0
	c, s := connect(t, Options{TokenSource: func(context.Context) (string, error) {
		n++
		return fmt.Sprint("token-", n), nil
	}})
	told := make(chan SystemEvent, 1)
	failed := make(chan *wire.Error, 1)
	c.OnSystem(func(e SystemEvent) { told <- e })
	c.OnError(func(e *wire.Error) { failed <- e })
	for want := 2; want <= 3; want++ {
		s.say(`{"op":"system","event":"refresh","at":5}`)
		f := s.next(t)
		if got := string(f["op"]) + string(f["token"]); got != fmt.Sprintf(`"refresh""token-%d"`, want) {
			t.Fatalf("got %s, want a refresh with token-%d", got, want)
		}
		if e := receive(t, told); e.Event != "refresh" || e.At != 5 {
			t.Errorf("got %+v", e)
		}
		answer, err := json.Marshal(map[string]any{"id": f["id"], "error": map[string]string{"code": "PERMISSION_DENIED", "message": "no"}})
		if err != nil {
			t.Fatal(err)
		}
		s.say(string(answer))
		if e := receive(t, failed); e.Code != wire.PermissionDenied {
			t.Errorf("got %v", e)
		}
	}
}
